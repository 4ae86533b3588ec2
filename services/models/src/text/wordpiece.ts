/**
 * BERT's WordPiece with the ids that transformers' BertTokenizer gives for an uncased vocabulary:
 * control characters dropped, Chinese characters set apart, lower case, accents stripped,
 * punctuation set apart, then the longest pieces that the vocabulary has.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { invalid } from '@spindle/native';
import { describe, isObject, readJsonObject, readText } from '../files/json.js';

const unknown = '[UNK]';
const maxWordLength = 100;
const specials = ['[CLS]', '[SEP]', '[PAD]', '[MASK]', unknown];

export interface PaddedTexts {
  /** (N, T) row by row. */
  ids: Int32Array;
  mask: Int32Array;
  /** Texts that were cut. */
  truncated: number;
}

export class WordPieceTokenizer {
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #special: RegExp;

  constructor(vocab: ReadonlyMap<string, number>, where: string) {
    for (const token of specials)
      if (!vocab.has(token)) throw invalid(where, `expected the token ${token}, got none`);
    this.#vocab = vocab;
    this.#special = new RegExp(
      `(${specials.map((token) => token.replace(/[[\]]/g, '\\$&')).join('|')})`,
      'u',
    );
  }

  /**
   * Reads vocab.txt, one token per line, or the tokenizer.json that transformers 5 writes alone, in
   * `directory` or its tokenizer/.
   */
  static load(directory: string): WordPieceTokenizer {
    const file = [directory, join(directory, 'tokenizer')]
      .flatMap((folder) => ['vocab.txt', 'tokenizer.json'].map((name) => join(folder, name)))
      .find((path) => existsSync(path));
    if (file === undefined)
      throw invalid(
        directory,
        'expected vocab.txt or tokenizer.json (of bert-base-uncased), got neither',
      );
    if (file.endsWith('.json')) return new WordPieceTokenizer(jsonVocab(file), file);
    const lines = readText(file).split(/\r?\n/);
    if (lines.at(-1) === '') lines.pop();
    return new WordPieceTokenizer(new Map(lines.map((token, id) => [token, id])), file);
  }

  get size(): number {
    return this.#vocab.size;
  }

  /** Pieces without [CLS] and [SEP]. */
  tokenize(text: string): string[] {
    return text
      .split(this.#special)
      .flatMap((part, i) =>
        i % 2 === 1 ? [part] : words(part).flatMap((word) => this.#pieces(word)),
      );
  }

  /** [CLS] text [SEP], cut and padded to `length`. */
  encode(texts: readonly string[], length: number): PaddedTexts {
    const ids = new Int32Array(texts.length * length).fill(this.#id('[PAD]'));
    const mask = new Int32Array(texts.length * length);
    let truncated = 0;
    texts.forEach((text, n) => {
      const pieces = this.tokenize(text);
      if (pieces.length > length - 2) truncated++;
      const row = ['[CLS]', ...pieces.slice(0, length - 2), '[SEP]'];
      row.forEach((piece, i) => {
        ids[n * length + i] = this.#id(piece);
        mask[n * length + i] = 1;
      });
    });
    return { ids, mask, truncated };
  }

  #id(piece: string): number {
    return this.#vocab.get(piece) ?? this.#vocab.get(unknown) ?? 0;
  }

  #pieces(word: string): string[] {
    const characters = Array.from(word);
    if (characters.length > maxWordLength) return [unknown];
    const pieces: string[] = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let piece: string | undefined;
      for (; end > start; end--) {
        const candidate = (start > 0 ? '##' : '') + characters.slice(start, end).join('');
        if (this.#vocab.has(candidate)) {
          piece = candidate;
          break;
        }
      }
      if (piece === undefined) return [unknown];
      pieces.push(piece);
      start = end;
    }
    return pieces;
  }
}

function jsonVocab(file: string): Map<string, number> {
  const model = readJsonObject(file)['model'];
  const vocab = isObject(model) && model['type'] === 'WordPiece' ? model['vocab'] : undefined;
  if (!isObject(vocab))
    throw invalid(
      file,
      'model: expected one of type WordPiece with a vocab, got ' +
        describe(isObject(model) ? model['type'] : model),
    );
  return new Map(
    Object.entries(vocab).map(([token, id]) => {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0)
        throw invalid(
          file,
          `${JSON.stringify(token)}: expected a non-negative integer id, got ${describe(id)}`,
        );
      return [token, id];
    }),
  );
}

function words(text: string): string[] {
  const clean = Array.from(text.normalize('NFC'))
    .filter((c) => c !== '\u0000' && c !== '\uFFFD' && (/\s/u.test(c) || !/^\p{C}$/u.test(c)))
    .map((c) => (isChinese(c) ? ` ${c} ` : /\s/u.test(c) ? ' ' : c))
    .join('');
  return clean
    .split(' ')
    .filter((word) => word !== '')
    .flatMap((word) => {
      const bare = word
        .toLowerCase()
        .normalize('NFD')
        .replace(/\p{Mn}/gu, '');
      return bare.split(/([!-/:-@[-`{-~]|\p{P})/u).filter((part) => part !== '');
    });
}

const chineseRanges = [
  [0x4e00, 0x9fff],
  [0x3400, 0x4dbf],
  [0x20000, 0x2a6df],
  [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f],
  [0x2b820, 0x2ceaf],
  [0xf900, 0xfaff],
  [0x2f800, 0x2fa1f],
] as const;

function isChinese(character: string): boolean {
  const code = character.codePointAt(0) ?? 0;
  return chineseRanges.some(([low, high]) => code >= low && code <= high);
}
