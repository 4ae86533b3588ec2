/**
 * CLIP's byte-level BPE with the ids that transformers' CLIPTokenizer gives: NFC, runs of white
 * space to one space, lower case by code point, CLIP's word pattern, byte-level merges with "</w>"
 * at a word's end. Special tokens are found in the text before any of that.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { invalid } from '@spindle/native';
import {
  describe,
  isObject,
  readJsonObject,
  readText,
  type JsonObject,
  type JsonValue,
} from '../files/json.js';

export interface Encoding {
  /** maxLength ids: bos, tokens, eos, padding. */
  ids: number[];
  /** Tokens that did not fit between bos and eos. */
  truncated: number;
}

interface SpecialToken {
  content: string;
  id: number;
  /** Matched in the normalised text instead of the raw one. */
  normalized: boolean;
}

const word = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
export const endOfWord = '</w>';
const maxRememberedWords = 10_000;

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
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #unknownId: number;
  readonly #rawSpecials: readonly SpecialToken[];
  readonly #normalizedSpecials: readonly SpecialToken[];
  readonly #words = new Map<string, readonly number[]>();

  private constructor(
    vocab: ReadonlyMap<string, number>,
    ranks: ReadonlyMap<string, number>,
    specials: {
      bos: SpecialToken;
      eos: SpecialToken;
      pad: SpecialToken;
      unk: SpecialToken;
      all: SpecialToken[];
    },
    modelMaxLength: number,
  ) {
    this.#vocab = vocab;
    this.#ranks = ranks;
    this.bosId = specials.bos.id;
    this.eosId = specials.eos.id;
    this.padId = specials.pad.id;
    this.#unknownId = specials.unk.id;
    this.#rawSpecials = specials.all.filter((token) => !token.normalized);
    this.#normalizedSpecials = specials.all
      .filter((token) => token.normalized)
      .map((token) => ({ ...token, content: normalize(token.content) }));
    this.modelMaxLength = modelMaxLength;
  }

  /**
   * Reads vocab.json, merges.txt and, where present, tokenizer_config.json and
   * special_tokens_map.json.
   */
  static load(directory: string): ClipTokenizer {
    const vocabFile = join(directory, 'vocab.json');
    const vocab = new Map<string, number>();
    for (const [token, id] of Object.entries(readJsonObject(vocabFile))) {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0) {
        throw invalid(
          vocabFile,
          `${JSON.stringify(token)}: expected a non-negative integer id, got ${describe(id)}`,
        );
      }
      vocab.set(token, id);
    }
    const { config, map } = readTokenizerConfigs(directory);
    const specials = readSpecialTokens(directory, vocab, config, map);
    const limit = config['model_max_length'];
    if (limit !== undefined && (typeof limit !== 'number' || !(limit >= 2))) {
      throw invalid(
        join(directory, 'tokenizer_config.json'),
        `model_max_length: expected a number of at least 2, got ${describe(limit)}`,
      );
    }
    // transformers writes 1e30 for "no limit".
    const modelMaxLength =
      typeof limit === 'number' && limit < 1e9 ? limit : Number.POSITIVE_INFINITY;
    return new ClipTokenizer(
      vocab,
      readMerges(join(directory, 'merges.txt')),
      specials,
      modelMaxLength,
    );
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
        else for (const match of part.matchAll(word)) ids.push(...this.#encodeWord(match[0]));
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
    const ids = this.#merge(symbols).map((symbol) => this.#vocab.get(symbol) ?? this.#unknownId);
    if (this.#words.size >= maxRememberedWords) this.#words.clear();
    this.#words.set(text, ids);
    return ids;
  }

  /** Applies the merge of the lowest rank, leftmost first, until none is left. */
  #merge(symbols: string[]): string[] {
    for (;;) {
      let best = Number.POSITIVE_INFINITY;
      let at = -1;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const rank = this.#ranks.get(`${symbols[i]} ${symbols[i + 1]}`);
        if (rank !== undefined && rank < best) {
          best = rank;
          at = i;
        }
      }
      if (at < 0) return symbols;
      symbols.splice(at, 2, `${symbols[at]}${symbols[at + 1]}`);
    }
  }
}

function readMerges(file: string): Map<string, number> {
  const ranks = new Map<string, number>();
  readText(file)
    .split('\n')
    .forEach((line, index) => {
      const merge = line.trimEnd();
      if (merge === '' || (index === 0 && merge.startsWith('#version'))) return;
      if (merge.split(' ').length !== 2)
        throw invalid(
          `${file}:${index + 1}`,
          `expected two symbols with a space between, got ${JSON.stringify(merge)}`,
        );
      if (!ranks.has(merge)) ranks.set(merge, ranks.size);
    });
  return ranks;
}

function readTokenizerConfigs(directory: string): { config: JsonObject; map: JsonObject } {
  const optional = (name: string): JsonObject =>
    existsSync(join(directory, name)) ? readJsonObject(join(directory, name)) : {};
  const config = optional('tokenizer_config.json');
  const file = join(directory, 'tokenizer_config.json');
  const kind = config['tokenizer_class'];
  if (kind !== undefined && kind !== 'CLIPTokenizer' && kind !== 'CLIPTokenizerFast') {
    throw invalid(file, `tokenizer_class: expected CLIPTokenizer, got ${describe(kind)}`);
  }
  if (config['do_lower_case'] === false)
    throw invalid(file, 'do_lower_case: expected true, got false (not supported)');
  return { config, map: optional('special_tokens_map.json') };
}

function readSpecialTokens(
  directory: string,
  vocab: ReadonlyMap<string, number>,
  config: JsonObject,
  map: JsonObject,
) {
  const file = join(directory, 'tokenizer_config.json');
  const resolve = (value: JsonValue, field: string): SpecialToken => {
    const content = isObject(value) ? value['content'] : value;
    if (typeof content !== 'string' || content === '')
      throw invalid(file, `${field}: expected a token, got ${describe(value)}`);
    for (const option of ['lstrip', 'rstrip', 'single_word']) {
      if (isObject(value) && value[option] === true)
        throw invalid(file, `${field}.${option}: expected false, got true (not supported)`);
    }
    const id = vocab.get(content);
    if (id === undefined)
      throw invalid(
        join(directory, 'vocab.json'),
        `expected the ${field} ${JSON.stringify(content)} among its entries, got none`,
      );
    return { content, id, normalized: isObject(value) && value['normalized'] === true };
  };
  const named = (field: string, fallback: string): SpecialToken =>
    resolve(config[field] ?? map[field] ?? fallback, field);
  const end = '<|endoftext|>';
  const [bos, eos, unk, pad] = [
    named('bos_token', '<|startoftext|>'),
    named('eos_token', end),
    named('unk_token', end),
    named('pad_token', end),
  ];
  // Declared ones come first: they say best whether a token is matched in the normalised text.
  const decoder = config['added_tokens_decoder'];
  const declared = isObject(decoder)
    ? Object.values(decoder).map((value) => resolve(value, 'added_tokens_decoder'))
    : [];
  const all = new Map<string, SpecialToken>();
  for (const token of [...declared, bos, eos, unk, pad])
    if (!all.has(token.content)) all.set(token.content, token);
  return { bos, eos, unk, pad, all: [...all.values()] };
}

/**
 * Cuts the text at its special tokens: ids for those, strings for what lies between; leftmost, then
 * longest, wins.
 */
function splitSpecials(text: string, specials: readonly SpecialToken[]): (string | number)[] {
  const pieces: (string | number)[] = [];
  let from = 0;
  while (from < text.length) {
    let at = text.length;
    let found: SpecialToken | undefined;
    for (const token of specials) {
      const index = text.indexOf(token.content, from);
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
