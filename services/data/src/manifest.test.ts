import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Manifest, manifestLine, parseManifestLine } from './manifest.js';
import type { DataRow } from './rows.js';
import { dataFolder } from './testing/data.js';

const rows: DataRow[] = [
  {
    key: 'a',
    caption: 'größer\n"quoted"',
    image: { kind: 'file', file: '/a.png' },
    position: 'metadata.jsonl:1',
  },
  {
    key: 'b',
    caption: '',
    image: { kind: 'member', file: '/b.tar', offset: 512, bytes: 7, member: 'b.jpg' },
    position: 'b.tar:b',
  },
  {
    key: 'c',
    caption: 'c',
    image: { kind: 'cell', file: 's3://x/c.parquet', row: 3, column: 'jpg_0' },
    rejected: { kind: 'cell', file: 's3://x/c.parquet', row: 3, column: 'jpg_1' },
    position: 'c.parquet:3',
  },
];

it('gives back any range of the rows that were written', async () => {
  const file = join(dataFolder({ 'm.jsonl': rows.map(manifestLine).join('') }), 'm.jsonl');
  const manifest = await Manifest.open(file);
  expect(manifest.count).toBe(3);
  expect(await manifest.rows(0, 3)).toEqual(
    rows.map(({ caption, image, rejected, position }, index) => ({
      index,
      text: caption,
      image,
      ...(rejected && { rejected }),
      position,
    })),
  );
  expect((await manifest.rows(2, 1))[0]?.text).toBe('c');
  await expect(manifest.rows(2, 2)).rejects.toThrow('manifest: expected at least 4 rows, got 3');
});

it('reads lines that name a file alone, with or without a last line break', async () => {
  const file = join(dataFolder({}), 'm.jsonl');
  writeFileSync(file, '{"file":"/a.png","text":"one"}\n{"file":"/b.png","text":"two"}');
  expect(await (await Manifest.open(file)).rows(1, 1)).toEqual([
    { index: 1, text: 'two', image: { kind: 'file', file: '/b.png' }, position: 'row 1' },
  ]);
});

it('names a line that is none', () => {
  expect(() => parseManifestLine('{"file":1}', 0)).toThrow(
    /manifest row 0: expected \{"file": string, "text": string\}/,
  );
  expect(() => parseManifestLine('{"file":"/a","text":"x","kind":"cell"}', 5)).toThrow(
    /manifest row 5/,
  );
  expect(() => parseManifestLine('x', 0)).toThrow(/manifest row 0: expected JSON/);
});
