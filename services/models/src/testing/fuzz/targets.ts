/** What `npm run fuzz` gives to the readers of models' files. */
import { cpSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Scratch, type FuzzTarget } from '@spindle/kit/testing';
import { RandomFile } from '../../convert/files.js';
import { readPickle } from '../../convert/pickle.js';
import { readTorchArchive } from '../../convert/torch-archive.js';
import { parseJson, stringifyJson } from '../../files/json.js';
import { cleanCaption } from '../../text/caption-cleaning.js';
import { ClipTokenizer } from '../../text/tokenizer.js';
import { WordPieceTokenizer } from '../../text/wordpiece.js';
import {
  dictPickle,
  floats,
  op,
  pickle,
  tensorPickle,
  torchLegacy,
  torchZip,
} from '../torch-archives.js';

const text = (value: string): Buffer => Buffer.from(value);
const scratch = new Scratch();
const fixture = fileURLToPath(new URL('../../../../../test/fixtures/tokenizer', import.meta.url));

const tensor = {
  ...{ name: 'w', type: 'FloatStorage', key: '0', elements: 6, offset: 0 },
  ...{ shape: [2, 3], stride: [3, 1] },
};
const six = floats(1, 2, 3, 4, 5, 6);
const state = dictPickle([
  ['w', tensorPickle(tensor)],
  ['turned', tensorPickle({ ...tensor, shape: [3, 2], stride: [1, 3] })],
  ['epoch', op.int(3)],
]);
const legacyState = dictPickle([['w', tensorPickle(tensor, true)]]);
const opcodes = [
  ...'(.)]}tueRbQNcXJKM',
  '\x80\x02',
  '\x88',
  '\x89',
  '\x8a\x08',
  '\x93',
  '\x94',
  'q\0',
  'h\0',
];
const pickleWords = [
  ...opcodes,
  ...['ctorch._utils\n_rebuild_tensor_v2\n', 'ccollections\nOrderedDict\n', 'cos\nsystem\n'],
  ...['c_codecs\nencode\n', 'cnumpy\ndtype\n', 'storage', 'torch\nFloatStorage\n'],
];

/** A small vocabulary as tokenizer.json. */
const tokenizerJson = JSON.stringify({
  added_tokens: [
    { id: 5, content: '<|startoftext|>', special: true, normalized: false },
    { id: 6, content: '<|endoftext|>', special: true, normalized: false },
  ],
  model: {
    type: 'BPE',
    vocab: {
      a: 0,
      'a</w>': 1,
      b: 2,
      'ab</w>': 3,
      'b</w>': 4,
      '<|startoftext|>': 5,
      '<|endoftext|>': 6,
    },
    merges: [['a', 'b</w>'], 'a a'],
  },
});
const wordPieceJson = JSON.stringify({
  model: {
    type: 'WordPiece',
    vocab: { '[CLS]': 0, '[SEP]': 1, '[PAD]': 2, '[MASK]': 3, '[UNK]': 4, red: 5, '##d': 6 },
  },
});

let clip: ClipTokenizer | undefined;

export const targets: readonly FuzzTarget[] = [
  {
    name: 'pickle',
    seeds: () => [
      pickle(state),
      pickle(legacyState),
      pickle(Buffer.concat([op.emptyList, op.put(0), op.get(0), op.tuple])),
    ],
    words: pickleWords,
    hostile: () => [
      pickle(Buffer.concat(Array<Buffer>(1 << 20).fill(op.emptyList))),
      pickle(
        Buffer.concat([
          op.text('x'.repeat(8000)),
          op.put(0),
          ...Array<Buffer>(1 << 18).fill(op.get(0)),
        ]),
      ),
      pickle(
        Buffer.concat([
          op.emptyTuple,
          op.put(0),
          ...Array<Buffer>(1 << 18).fill(Buffer.from('\x85', 'latin1')),
        ]),
      ),
      Buffer.concat([op.proto, Buffer.alloc(1 << 20, '(')]),
      Buffer.concat([op.proto, Buffer.alloc(1 << 20, 'c')]),
    ],
    read: (input) => readPickle(input, 0, 'a.ckpt'),
  },
  {
    name: 'torch-archive',
    seeds: () => [
      torchZip(state, { 0: six }),
      torchZip(state, { 0: six }, { zip64: true }),
      torchLegacy(legacyState, [['0', 6, six]]),
    ],
    words: [...pickleWords, 'PK\x03\x04', 'PK\x01\x02', 'PK\x05\x06', 'archive/data.pkl', 'data/0'],
    read: (input) => {
      const file = new RandomFile(scratch.file('a.ckpt', input));
      try {
        for (const { chunks } of readTorchArchive(file).tensors) for (const _chunk of chunks());
      } finally {
        file.close();
      }
    },
  },
  {
    name: 'json',
    seeds: () => ['{"a":[1,-0.5e3,true,null,"x\\n"],"b":{"c":NaN,"d":-Infinity}}', '[]'].map(text),
    words: ['NaN', 'Infinity', '"\\u0000spindle:NaN"', '\\\\', '\\"', '"'],
    hostile: () =>
      [
        '['.repeat(1 << 20) + ']'.repeat(1 << 20),
        `"${'x'.repeat(20 << 20)}"`,
        `[NaN,"${'\\\\'.repeat(10 << 20)}"]`,
        `[${'NaN,'.repeat(1 << 20)}1]`,
        `"${'\\'.repeat((1 << 20) + 1)}`,
        '"'.repeat(1 << 20),
      ].map(text),
    read: (input) => stringifyJson(parseJson(input.toString('utf8'), 'config.json')),
  },
  {
    name: 'tokenizer-json',
    seeds: () => [text(tokenizerJson), text(wordPieceJson)],
    words: [
      '"merges":',
      '"vocab":',
      '"added_tokens":',
      '"content":',
      '"id":',
      '[["a","b"]]',
      '"a b"',
    ],
    hostile: () => [
      text(
        `{"model":{"type":"BPE","vocab":{"a":0},"merges":[${'["a","a"],'.repeat(200_000)}["a","b"]]}}`,
      ),
    ],
    read: (input) => {
      scratch.file('tokenizer.json', input);
      const kind = input.includes('WordPiece') ? WordPieceTokenizer : ClipTokenizer;
      kind.load(scratch.folder).tokenize('abba red <|endoftext|> a\u0301');
    },
  },
  {
    name: 'tokenizer-files',
    seeds: () =>
      ['vocab.json', 'merges.txt', 'special_tokens_map.json', 'tokenizer_config.json'].map((name) =>
        readFileSync(join(fixture, name)),
      ),
    words: ['"bos_token":', '"pad_token":"!"', '"model_max_length":', 'added_tokens_decoder'],
    read: (input) => {
      const start = input.toString('latin1', 0, 200);
      const name = start.includes('_class')
        ? 'tokenizer_config.json'
        : start.includes('_token')
          ? 'special_tokens_map.json'
          : start.startsWith('{')
            ? 'vocab.json'
            : 'merges.txt';
      const folder = join(scratch.folder, 'clip');
      rmSync(folder, { recursive: true, force: true });
      cpSync(fixture, folder, { recursive: true });
      scratch.file(join('clip', name), input);
      ClipTokenizer.load(folder).tokenize('a red circle!');
    },
  },
  {
    name: 'caption',
    seeds: () =>
      [
        'a red circle, schÃ¶n &amp; <b>',
        "it's 3 o'clock <|endoftext|> 赤い狐",
        misread('рыжая лиса'),
      ].map(text),
    words: ['&#x', '&amp', ';', 'Ã', 'Â', 'â€', '\u0301', '\u0323', '<|endoftext|>', '\ud800'],
    hostile: () =>
      [
        'a'.repeat(1 << 16),
        '\u0301\u0323'.repeat(1 << 15),
        'Ã' + 'ƒ'.repeat(1 << 15),
        '<|endoftext|>'.repeat(5000),
        '&'.repeat(1 << 16),
        `${'&#1'.repeat(1 << 14)}`,
        "'".repeat(1 << 16),
        ' '.repeat(1 << 16),
        '赤'.repeat(20_000),
      ].map(text),
    read: (input) => {
      const caption = input.toString('utf8').slice(0, 1 << 16);
      clip ??= ClipTokenizer.load(fixture);
      clip.encode(caption, 77);
      clip.encode(cleanCaption(caption), 77);
    },
  },
];

function misread(value: string): string {
  return Buffer.from(value, 'utf8').toString('latin1');
}
