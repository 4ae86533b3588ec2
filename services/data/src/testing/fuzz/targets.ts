/** What `npm run fuzz` gives to the readers of data sets. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FuzzTarget } from '@spindle/kit/testing';
import { ImageReader } from '../../images.js';
import { parseManifestLine, manifestLine } from '../../manifest.js';
import { openDataSource, type DataSpec } from '../../open.js';
import { parsePromptList } from '../../prompt-list.js';
import { readPromptSet } from '../../prompt-set.js';
import { tarOf } from '../tar.js';
import { memoryFiles } from './memory-files.js';

const folder = 's3://bucket/data';
const fixtures = fileURLToPath(new URL('../../../fixtures', import.meta.url));
const text = (value: string): Buffer => Buffer.from(value);
const image = text('image');

/** Every row of a data set, and every image of it. */
async function readAll(spec: Partial<DataSpec>, files: Record<string, Buffer>): Promise<void> {
  const store = memoryFiles(
    new Map(Object.entries(files).map(([name, bytes]) => [`${folder}/${name}`, bytes])),
  );
  const source = await openDataSource({ path: folder, format: 'auto', ...spec }, store);
  const reader = new ImageReader(store, []);
  const { signal } = new AbortController();
  let images = 0;
  for await (const row of source.rows())
    for (const ref of [row.image, ...(row.rejected ? [row.rejected] : [])])
      if (images++ < 20) await reader.read(ref, signal);
}

function* deepAndLong(around: (inner: string) => string): Iterable<Buffer> {
  yield text(around('['.repeat(1 << 20) + ']'.repeat(1 << 20)));
  yield text(around('{"a":'.repeat(1 << 18) + '1' + '}'.repeat(1 << 18)));
  yield text(around(JSON.stringify('\u0301\u0323'.repeat(1 << 20))));
  yield text(around(`"${'\\"'.repeat(1 << 20)}"`));
}

const jsonWords = ['"file_name":', '"text":', '"prompt":', '"category":', '"caption":', '"a.png"'];
const row = '{"file_name":"a.png","text":"a red circle","rejected_file_name":"b.png"}\n';
const csv = 'image,caption,rejected\na.png,"a ""red"" circle",b.png\r\nb.png,x,\n';

export const targets: readonly FuzzTarget[] = [
  {
    name: 'tar',
    seeds: () => [
      tarOf([
        ['0.png', 'image'],
        ['0.txt', 'a red circle'],
        ['1.png', 'x'],
        ['1.json', '{"text":"y"}'],
      ]),
      tarOf([
        ['a/0.jpg', 'image', '20 path=b/long.jpg\n'],
        ['0.txt', 'x'],
      ]),
      tarOf(
        [
          ['0.png', 'image'],
          ['0.txt', 'x'],
        ],
        { size: '5' },
      ),
    ],
    words: [
      'ustar\0',
      '12 size=5\n',
      '16 size=-1024\n',
      ' path=',
      ' size=',
      '0000005\0',
      'x',
      'L',
      'g',
    ],
    hostile: () => [
      tarOf(Array(2000).fill(['0.png', 'x', `${'0'.repeat(30_000)}1 `])),
      tarOf([
        ['0.png', 'x'],
        ['0.json', '['.repeat(1 << 19)],
      ]),
      tarOf([
        ['0.png', 'x'],
        ['0.txt', '\u0301'.repeat(1 << 18)],
      ]),
    ],
    read: (input) => readAll({ path: `${folder}/a.tar` }, { 'a.tar': input }),
  },
  {
    name: 'parquet',
    seeds: () =>
      ['pickapic', 'binary-caption', 'image-path'].map((name) =>
        readFileSync(join(fixtures, `${name}.parquet`)),
      ),
    words: ['PAR1', 'jpg_0', 'caption', 'bytes', 'path'],
    read: async (input) => {
      await readAll({ path: `${folder}/a.parquet` }, { 'a.parquet': input, '0.png': image });
      await readPromptSet(
        memoryFiles(new Map([[`${folder}/p.parquet`, input]])),
        `${folder}/p.parquet`,
      );
    },
  },
  {
    name: 'csv',
    seeds: () => [csv, csv.replaceAll(',', '\t'), `\ufeff${csv}`].map(text),
    words: ['image,', 'caption', '"', '""', '\r', '\n', 'a.png', '../a.png'],
    hostile: () => [
      text(`image,caption\na.png,"${'x\n'.repeat(1 << 23)}`),
      text(`image,caption${',x'.repeat(1 << 20)}\n`.repeat(2)),
      text(`image,caption\n${'"'.repeat(1 << 20)}`),
    ],
    read: async (input) => {
      for (const name of ['a.csv', 'a.tsv'])
        await readAll(
          { path: `${folder}/${name}`, rejectedColumn: input[0] === 0x69 ? 'rejected' : undefined },
          { [name]: input, 'a.png': image, 'b.png': image },
        );
    },
  },
  {
    name: 'metadata',
    seeds: () => [row, row + row.replace(/,"rej.*"/, ''), '\n'].map(text),
    words: jsonWords,
    hostile: () => deepAndLong((inner) => `{"file_name":"a.png","text":${inner}}\n`),
    read: (input) => readAll({}, { 'metadata.jsonl': input, 'a.png': image, 'b.png': image }),
  },
  {
    name: 'metadata-csv',
    seeds: () => [text('file_name,text\na.png,a red circle\n')],
    words: ['file_name', 'text', ',', '"'],
    read: (input) => readAll({}, { 'metadata.csv': input, 'a.png': image }),
  },
  {
    name: 'caption-file',
    seeds: () => ['a red circle\n', '\ufeffx\r\n\r\ny'].map(text),
    words: ['\r\n', '\u2028', '\ufeff'],
    hostile: () => ['x'.repeat(1 << 20), '\n'.repeat(1 << 20), '\u0301'.repeat(1 << 19)].map(text),
    read: (input) => readAll({}, { '0.txt': input, '0.png': image, '1.caption': image }),
  },
  ...(['txt', 'jsonl', 'json'] as const).map(
    (extension): FuzzTarget => ({
      name: `prompts-${extension}`,
      seeds: () =>
        ({
          txt: ['a red circle\na blue square\n', '\ufeffx\r\ny\rz'],
          jsonl: ['"a red circle"\n{"prompt":"x","category":"c"}\n'],
          json: ['["a",{"prompt":"b","category":"c"}]', '{"anime":["a","b"],"photo":["c"]}'],
        })[extension].map(text),
      words: jsonWords,
      hostile: () => deepAndLong((inner) => inner),
      read: async (input) => {
        const path = `${folder}/p.${extension}`;
        const files = { [`p.${extension}`]: input, 'images/0.png': image, 'images/1.png': image };
        await readPromptSet(memoryFiles(new Map([[path, input]])), path);
        await readAll({ path, images: `${folder}/images` }, files);
      },
    }),
  ),
  {
    name: 'manifest',
    seeds: () => {
      const position = 'a:1';
      const ref = {
        kind: 'member',
        file: 'a.tar',
        offset: 512,
        bytes: 5,
        member: '0.png',
      } as const;
      return [
        manifestLine({ key: '1', caption: 'x', position, image: { kind: 'file', file: 'a' } }),
        manifestLine({ key: '1', caption: 'x', position, image: ref, rejected: ref }),
        manifestLine({
          ...{ key: '1', caption: 'x', position },
          image: { kind: 'cell', file: 'a', row: 1, column: 'jpg_0', images: 'b' },
        }),
      ].map(text);
    },
    words: ['"kind":"cell"', '"rejected":', 'null', '"offset":'],
    hostile: () => deepAndLong((inner) => `{"file":"a","text":"b","rejected":${inner}}`),
    read: (input) => parseManifestLine(input.toString('utf8'), 0),
  },
  {
    name: 'prompt-list',
    seeds: () => [text('["a",{"prompt":"b","category":"c"}]')],
    words: jsonWords,
    hostile: () => deepAndLong((inner) => `[${inner}]`),
    read: (input) => parsePromptList(input.toString('utf8')),
  },
];
