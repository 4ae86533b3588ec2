/**
 * CLIP's byte-level BPE with the ids that transformers' CLIPTokenizer gives: NFC, runs of white
 * space to one space, lower case by code point, CLIP's word pattern, byte-level merges with "</w>"
 * at a word's end. Special tokens are found in the text before any of that.
 */
import { invalid } from '@spindle/native';
import { mergePairs } from './byte-pairs.js';
import { readTokenizerFiles, type SpecialToken, type TokenizerFiles } from './tokenizer-files.js';

export interface Encoding {
  /** maxLength ids: bos, tokens, eos, padding. */
  ids: number[];
  /** Tokens that did not fit between bos and eos. */
  truncated: number;
}

const word = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
export const endOfWord = '</w>';
const maxRememberedWords = 10_000;
/** Longer ones do not come twice, and would be remembered at length. */
const maxRememberedLength = 64;

/** GPT-2's printable stand-in for every byte. */
export const byteToUnicode: readonly string[] = (() => {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(printable(byte) ? byte : next++),
  );
})();

function normalize(text: string): string {
  let out = '';
  // By code point, as transformers does: String.toLowerCase() alone would write a final sigma at a
  // word's end.
  for (const character of text.normalize('NFC').replace(/\p{White_Space}+/gu, ' '))
    out += character.toLowerCase();
  return out;
}

export class ClipTokenizer {
  /** The tokenizer's own limit (bos and eos included); Infinity when it states none. */
  readonly modelMaxLength: number;
  readonly bosId: number;
  readonly eosId: number;
  readonly padId: number;
  /** Of its files: keys that no library knows. */
  readonly warnings: readonly string[];
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #unknownId: number;
  readonly #rawSpecials: readonly SpecialToken[];
  readonly #normalizedSpecials: readonly SpecialToken[];
  readonly #words = new Map<string, readonly number[]>();

  private constructor(files: TokenizerFiles) {
    this.#vocab = files.vocab;
    this.#ranks = files.ranks;
    this.bosId = files.bos.id;
    this.eosId = files.eos.id;
    this.padId = files.pad.id;
    this.#unknownId = files.unk.id;
    this.#rawSpecials = files.specials.filter((token) => !token.normalized);
    this.#normalizedSpecials = files.specials
      .filter((token) => token.normalized)
      .map((token) => ({ ...token, content: normalize(token.content) }));
    this.modelMaxLength = files.modelMaxLength;
    this.warnings = files.warnings;
  }

  /** Reads a folder with tokenizer.json, or vocab.json and merges.txt, and their small configs. */
  static load(directory: string): ClipTokenizer {
    return new ClipTokenizer(readTokenizerFiles(directory));
  }

  /** The text's ids without bos, eos and padding. */
  tokenize(text: string): number[] {
    const ids: number[] = [];
    for (const piece of splitSpecials(text, this.#rawSpecials)) {
      if (typeof piece === 'number') {
        ids.push(piece);
        continue;
      }
      for (const part of splitSpecials(normalize(piece), this.#normalizedSpecials)) {
        if (typeof part === 'number') ids.push(part);
        else
          for (const [found] of part.matchAll(word))
            for (const id of this.#encodeWord(found)) ids.push(id);
      }
    }
    return ids;
  }

  encode(text: string, maxLength: number): Encoding {
    if (!Number.isInteger(maxLength) || maxLength < 2)
      throw invalid('tokenizer', `max_length: expected an integer of at least 2, got ${maxLength}`);
    const tokens = this.tokenize(text);
    const kept = tokens.slice(0, maxLength - 2);
    const ids = [this.bosId, ...kept, this.eosId];
    while (ids.length < maxLength) ids.push(this.padId);
    return { ids, truncated: tokens.length - kept.length };
  }

  #encodeWord(text: string): readonly number[] {
    const known = this.#words.get(text);
    if (known !== undefined) return known;
    const symbols = Array.from(Buffer.from(text, 'utf8'), (byte) => byteToUnicode[byte] ?? '');
    symbols.push(`${symbols.pop() ?? ''}${endOfWord}`);
    const ids = mergePairs(symbols, this.#ranks).map(
      (symbol) => this.#vocab.get(symbol) ?? this.#unknownId,
    );
    if (text.length > maxRememberedLength) return ids;
    if (this.#words.size >= maxRememberedWords) this.#words.clear();
    this.#words.set(text, ids);
    return ids;
  }
}

/**
 * Cuts the text at its special tokens: ids for those, strings for what lies between; leftmost, then
 * longest, wins.
 */
function splitSpecials(text: string, specials: readonly SpecialToken[]): (string | number)[] {
  const pieces: (string | number)[] = [];
  /** Where each comes next: the text is gone through once for each of them. */
  const ahead = specials.map((token) => ({ token, index: text.indexOf(token.content) }));
  let from = 0;
  while (from < text.length) {
    let at = text.length;
    let found: SpecialToken | undefined;
    for (const one of ahead) {
      if (one.index >= 0 && one.index < from) one.index = text.indexOf(one.token.content, from);
      const { token, index } = one;
      if (index < 0 || index > at) continue;
      if (index < at || found === undefined || token.content.length > found.content.length) {
        at = index;
        found = token;
      }
    }
    if (at > from) pieces.push(text.slice(from, at));
    if (found === undefined) break;
    pieces.push(found.id);
    from = at + found.content.length;
  }
  return pieces;
}
