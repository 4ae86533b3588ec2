import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { ClipTokenizer } from './tokenizer.js';

const fixture = fileURLToPath(new URL('../../../../test/fixtures/tokenizer', import.meta.url));
const { cases, max_length: maxLength } = JSON.parse(
  readFileSync(join(fixture, 'fixture.json'), 'utf8'),
) as {
  cases: { text: string; ids: number[] }[];
  max_length: number;
};
const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true })));

function copyWith(files: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
  folders.push(folder);
  cpSync(fixture, folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return folder;
}

describe('ClipTokenizer', () => {
  const tokenizer = ClipTokenizer.load(fixture);

  it.each(cases)('gives the reference ids for $text', ({ text, ids }) => {
    expect(tokenizer.encode(text, maxLength).ids).toEqual(ids);
  });

  it('counts the tokens that did not fit', () => {
    expect(tokenizer.encode('a red circle', 32).truncated).toBe(0);
    expect(tokenizer.encode(Array.from({ length: 40 }, () => 'red').join(' '), 32).truncated).toBe(
      10,
    );
    expect(tokenizer.encode(Array.from({ length: 30 }, () => 'red').join(' '), 32).truncated).toBe(
      0,
    );
  });

  it('reads the limit of tokenizer_config.json', () => {
    expect(tokenizer.modelMaxLength).toBe(32);
    const endless = copyWith({
      'tokenizer_config.json': '{"tokenizer_class":"CLIPTokenizer","model_max_length":1e30}',
    });
    expect(ClipTokenizer.load(endless).modelMaxLength).toBe(Number.POSITIVE_INFINITY);
  });

  it('pads with "!" and takes it for that token inside a text when it is the pad token, as Stable Diffusion 2 has it', () => {
    const folder = copyWith({
      'special_tokens_map.json': '{"pad_token":"!"}',
      'tokenizer_config.json':
        '{"tokenizer_class":"CLIPTokenizer","model_max_length":32,"pad_token":"<|endoftext|>"}',
    });
    const ids = ClipTokenizer.load(folder).encode('red!', 6).ids;
    expect(ids).toEqual([647, 513, 0, 648, 0, 0]);
  });

  it('goes by tokenizer_config.json alone where that has added_tokens_decoder', () => {
    const folder = copyWith({
      'special_tokens_map.json': '{"pad_token":"!"}',
      'tokenizer_config.json':
        '{"pad_token":"<|endoftext|>","added_tokens_decoder":{"648":{"content":"<|endoftext|>"}}}',
    });
    expect(ClipTokenizer.load(folder).padId).toBe(648);
  });

  it.each([null, 'CLIPTokenizer'])('takes null in tokenizer_config.json as absent: %s', (kind) => {
    const folder = copyWith({
      'special_tokens_map.json': '{"pad_token":null}',
      'tokenizer_config.json': JSON.stringify({ tokenizer_class: kind, model_max_length: null }),
    });
    expect(ClipTokenizer.load(folder)).toMatchObject({
      padId: 648,
      modelMaxLength: Number.POSITIVE_INFINITY,
    });
  });

  it.each([
    { sep_token: '!' },
    { mask_token: '!' },
    { own_token: '!' },
    { additional_special_tokens: ['!'] },
    { extra_special_tokens: ['!'] },
    { extra_special_tokens: { own_token: '!' } },
    { model_specific_special_tokens: { own_token: '!' } },
  ])('finds special tokens of every kind in a text, as transformers does: %j', (named) => {
    const own = JSON.parse(readFileSync(join(fixture, 'tokenizer_config.json'), 'utf8')) as object;
    const load = (change: object): ClipTokenizer =>
      ClipTokenizer.load(
        copyWith({ 'tokenizer_config.json': JSON.stringify({ ...own, ...change }) }),
      );
    expect(load({}).encode('red!! ?', 6).ids).toEqual([647, 513, 0, 256, 286, 648]);
    expect(load(named).encode('red!! ?', 6).ids).toEqual([647, 513, 0, 0, 286, 648]);
    // The newer list takes the place of the older one.
    const both = { additional_special_tokens: ['!'], extra_special_tokens: ['?'] };
    expect(load(both).encode('red!! ?', 6).ids).toEqual([647, 513, 0, 256, 30, 648]);
  });

  describe('tokenizer.json', () => {
    const read = (name: string): string => readFileSync(join(fixture, name), 'utf8');
    const merges = read('merges.txt')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#version'));
    const special = (content: string, id: number) => ({
      ...{ id, content, special: true, normalized: false },
      ...{ single_word: false, lstrip: false, rstrip: false },
    });
    /** As transformers 5 writes a CLIPTokenizer: no vocab.json, no merges.txt. */
    const folderOf = (added: object[], pairs = true): string => {
      const folder = copyWith({
        'tokenizer.json': JSON.stringify({
          version: '1.0',
          added_tokens: [special('<|startoftext|>', 647), special('<|endoftext|>', 648), ...added],
          model: {
            type: 'BPE',
            unk_token: '<|endoftext|>',
            end_of_word_suffix: '</w>',
            vocab: JSON.parse(read('vocab.json')) as object,
            merges: pairs ? merges.map((line) => line.split(' ')) : merges,
          },
        }),
      });
      for (const name of ['vocab.json', 'merges.txt', 'special_tokens_map.json'])
        rmSync(join(folder, name));
      return folder;
    };

    it.each([true, false])('gives the same ids without the older files; pairs: %s', (pairs) => {
      const alone = ClipTokenizer.load(folderOf([], pairs));
      for (const { text, ids } of cases) expect(alone.encode(text, maxLength).ids).toEqual(ids);
    });

    it('gives added tokens their own ids', () => {
      const alone = ClipTokenizer.load(folderOf([special('<cat-toy>', 649)]));
      expect(alone.tokenize('a<cat-toy>')).toEqual([...alone.tokenize('a'), 649]);
    });

    it('is refused with a model of another type', () => {
      const folder = copyWith({ 'tokenizer.json': '{"model":{"type":"Unigram"}}' });
      expect(() => ClipTokenizer.load(folder)).toThrow(
        /tokenizer\.json: model: expected one of type BPE, got "Unigram"/,
      );
    });
  });

  it('reads the ids of added_tokens.json', () => {
    const folder = copyWith({ 'added_tokens.json': '{"<cat-toy>":649}' });
    expect(ClipTokenizer.load(folder).tokenize('<cat-toy>')).toEqual([649]);
  });

  it('says which files it wants where there is none', () => {
    const folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
    folders.push(folder);
    expect(() => ClipTokenizer.load(folder)).toThrow(
      'expected tokenizer.json, or vocab.json and merges.txt, got none of them',
    );
  });

  it('matches an upper-case special token only where the config calls it normalised', () => {
    expect(tokenizer.tokenize('<|ENDOFTEXT|>')).not.toEqual([648]);
    const folder = copyWith({
      'special_tokens_map.json': '{}',
      'tokenizer_config.json':
        '{"eos_token":{"content":"<|endoftext|>","normalized":true},"unk_token":"<|endoftext|>"}',
    });
    expect(ClipTokenizer.load(folder).tokenize('<|ENDOFTEXT|>')).toEqual([648]);
  });

  it('lower-cases a sigma at a word end by itself and composes accents', () => {
    expect(tokenizer.tokenize('ΟΔΟΣ')).toEqual(tokenizer.tokenize('οδοσ'));
    expect(tokenizer.tokenize('cafe\u0301')).toEqual(tokenizer.tokenize('café'));
  });

  it('takes one long word, or special tokens without end, in a moment', () => {
    const started = performance.now();
    const word = Array.from({ length: 60_000 }, (_, i) => 'redcircle'[(i * i) % 9]).join('');
    // The digest of the ids that Hugging Face's tokenizers gives.
    expect(createHash('sha256').update(tokenizer.tokenize(word).join()).digest('hex')).toBe(
      'b8eb2d63e209e3c1605193f8d4ec27faf012bb59e8b9d835d0460b9a2fc389b7',
    );
    expect(tokenizer.encode(word, 32).truncated).toBe(46_667 - 30);
    const folder = copyWith({ 'special_tokens_map.json': '{"pad_token":"!"}' });
    const bangs = ClipTokenizer.load(folder).tokenize('!'.repeat(500_000));
    expect(bangs).toHaveLength(500_000);
    expect(performance.now() - started).toBeLessThan(20_000);
  });

  it('survives lone surrogates, NUL and a megabyte of text', () => {
    expect(tokenizer.encode('\ud800 \0', 8).ids).toHaveLength(8);
    expect(tokenizer.encode('red '.repeat(250_000), 32).truncated).toBe(249_970);
  });

  it.each([
    ['merges.txt', '#version: 0.2\nr e d\n', /merges\.txt:2: expected two symbols/],
    ['vocab.json', '{"a": -1}', /vocab\.json: "a": expected a non-negative integer id, got -1/],
    [
      'vocab.json',
      '{"a": 1}',
      /vocab\.json: expected the bos_token "<\|startoftext\|>" among its entries/,
    ],
    ['vocab.json', '{', /vocab\.json: expected JSON/],
    [
      'tokenizer_config.json',
      '{"tokenizer_class":"T5Tokenizer"}',
      /tokenizer_class: expected "CLIPTokenizer" or "CLIPTokenizerFast" \(.*\), got "T5Tokenizer"/,
    ],
    [
      'tokenizer_config.json',
      '{"do_lower_case":false}',
      /do_lower_case: expected true \(other values are not supported\), got false/,
    ],
    [
      'special_tokens_map.json',
      '{"pad_token":{"content":"!","lstrip":true}}',
      /pad_token\.lstrip: expected false, got true/,
    ],
  ])('refuses a bad %s', (name, text, message) => {
    expect(() => ClipTokenizer.load(copyWith({ [name]: text }))).toThrow(message);
  });
});
