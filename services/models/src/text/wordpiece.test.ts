import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { WordPieceTokenizer } from './wordpiece.js';

const list = [
  '[UNK]',
  '[CLS]',
  '[SEP]',
  '[PAD]',
  '[MASK]',
  'want',
  '##want',
  '##ed',
  'wa',
  'un',
  'runn',
  '##ing',
  ',',
  'low',
  'lowest',
];
const tokenizer = (extra: string[] = []) =>
  new WordPieceTokenizer(new Map([...list, ...extra].map((token, id) => [token, id])), 'vocab');

describe('WordPiece', () => {
  // The library's own example of its BERT tests.
  it('lowers case, strips accents, sets punctuation apart and takes the longest pieces', () => {
    const pieces = tokenizer().tokenize('UNwant\u00E9d,running');
    expect(pieces).toEqual(['un', '##want', '##ed', ',', 'runn', '##ing']);
    const { ids, mask } = tokenizer().encode(['UNwant\u00E9d,running'], 10);
    expect([...ids]).toEqual([1, 9, 6, 7, 12, 10, 11, 2, 3, 3]);
    expect([...mask]).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
  });

  it('knows a whole word before its pieces, and [UNK] for what no pieces make', () => {
    expect(tokenizer().tokenize('low lowest lower')).toEqual(['low', 'lowest', '[UNK]']);
    expect(tokenizer(['a', '##a']).tokenize('a'.repeat(100)).length).toBe(100);
    expect(tokenizer(['a', '##a']).tokenize('a'.repeat(101))).toEqual(['[UNK]']);
  });

  it('sets Chinese characters apart, drops control characters, and takes any white space', () => {
    expect(tokenizer(['ah', '博', '推', 'zz']).tokenize('ah\u535A\u63A8zz')).toEqual([
      'ah',
      '博',
      '推',
      'zz',
    ]);
    expect(tokenizer().tokenize(' low\t\u0000wa\u200Bnt\n\u00A0un ')).toEqual([
      'low',
      'want',
      'un',
    ]);
  });

  it('takes every punctuation mark as a word of its own', () => {
    const marks = tokenizer(['$', '-', '…', '!', '`']);
    expect(marks.tokenize('low-un…$low!`')).toEqual(['low', '-', 'un', '…', '$', 'low', '!', '`']);
  });

  it('finds special tokens in the text, cuts long texts and counts them', () => {
    expect(tokenizer().tokenize('low[SEP]un [MASK]')).toEqual(['low', '[SEP]', 'un', '[MASK]']);
    const { ids, mask, truncated } = tokenizer().encode(['low low low low', 'un'], 4);
    expect([...ids]).toEqual([1, 13, 13, 2, 1, 9, 2, 3]);
    expect([...mask]).toEqual([1, 1, 1, 1, 1, 1, 1, 0]);
    expect(truncated).toBe(1);
  });

  it('refuses a vocabulary without its special tokens', () => {
    expect(() => new WordPieceTokenizer(new Map([['a', 0]]), 'vocab.txt')).toThrow(
      'vocab.txt: expected the token [CLS], got none',
    );
  });

  it('reads the tokenizer.json that transformers 5 writes in the place of vocab.txt', () => {
    const folder = mkdtempSync(join(tmpdir(), 'wordpiece-'));
    const vocab = Object.fromEntries(list.map((token, id) => [token, id]));
    writeFileSync(
      join(folder, 'tokenizer.json'),
      JSON.stringify({ model: { type: 'WordPiece', vocab } }),
    );
    const loaded = WordPieceTokenizer.load(folder);
    rmSync(folder, { recursive: true });
    expect(loaded.encode(['low un'], 6)).toEqual(tokenizer().encode(['low un'], 6));
  });
});
