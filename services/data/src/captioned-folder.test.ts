import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { localFiles } from './files.js';
import { openDataSource, type DataSpec } from './open.js';
import { dataFolder, readAll } from './testing/data.js';

const read = async (path: string, more: Partial<DataSpec> = {}) =>
  readAll(await openDataSource({ path, format: 'auto', ...more }, localFiles));
const captions = ({ rows }: Awaited<ReturnType<typeof read>>) =>
  rows.map(({ key, caption }) => [key, caption]);

describe('a folder of images with captions beside them', () => {
  it('is read with its subfolders, numbers in the order in which people count', async () => {
    const folder = dataFolder({
      ...{ 'img10.png': '', 'img10.txt': 'ten\n', 'img2.jpg': '', 'img2.txt': 'two' },
      ...{ 'sub/a.b.webp': '', 'sub/a.b.caption': '  a, b  ' },
      '.ipynb_checkpoints/img2.png': '',
    });
    const all = await read(folder);
    expect(captions(all)).toEqual([
      ['img2.jpg', 'two'],
      ['img10.png', 'ten'],
      ['sub/a.b.webp', 'a, b'],
    ]);
    expect(all.rows[2]?.image).toEqual({ kind: 'file', file: join(folder, 'sub', 'a.b.webp') });
    expect(all).toMatchObject({ warnings: [], skipped: {} });
  });

  it('takes .txt before .caption, and the suffix that was asked for before both', async () => {
    const folder = dataFolder({
      ...{ 'a.png': '', 'a.txt': 'text', 'a.caption': 'caption', 'a.tags': 'tags' },
    });
    expect(captions(await read(folder))).toEqual([['a.png', 'text']]);
    expect(captions(await read(folder, { captionColumn: 'caption' }))[0]?.[1]).toBe('caption');
    expect(captions(await read(folder, { captionColumn: 'tags' }))[0]?.[1]).toBe('tags');
  });

  it('counts what has no partner, and lines that are not read', async () => {
    const folder = dataFolder({
      ...{ 'a.png': '', 'a.txt': '\nfirst\r\nsecond\n', 'b.png': '', 'c.txt': 'alone' },
      'empty.png': '',
      'empty.txt': '',
    });
    const all = await read(folder);
    expect(captions(all)).toEqual([
      ['a.png', 'first'],
      ['empty.png', ''],
    ]);
    expect(all.skipped).toEqual({ 'no caption': 1 });
    expect(all.warnings).toEqual([
      'data: 1 captions have no image and are not used: c.txt.',
      'data: 1 captions have more than one line, of which the first counts: a.txt.',
    ]);
  });

  it('gives way to metadata, and can be asked for', async () => {
    const folder = dataFolder({
      ...{ 'a.png': '', 'a.txt': 'beside' },
      'metadata.jsonl': '{"file_name": "a.png", "text": "listed"}\n',
    });
    expect(captions(await read(folder))).toEqual([['a.png', 'listed']]);
    expect(captions(await read(folder, { format: 'captions' }))).toEqual([['a.png', 'beside']]);
  });

  it('refuses text that is not UTF-8, and a folder without captions, by name', async () => {
    const latin = dataFolder({ 'a.png': '', 'a.txt': new Uint8Array([0x61, 0xe9, 0x62]) });
    await expect(read(latin)).rejects.toThrow(/a\.txt.*UTF-8/);
    const bare = dataFolder({ 'a.png': '' });
    await expect(read(bare, { format: 'captions' })).rejects.toThrow(
      `data.path: expected images in ${bare} with a file of the same name that ends in .txt or ` +
        '.caption beside them, got none.',
    );
  });
});

it('finds the keys of a metadata file that a config names', async () => {
  const folder = dataFolder({
    ...{ 'a.png': '', 'b.png': '' },
    'metadata.jsonl': '{"img": "a.png", "alt": "A", "text": "other", "bad": "b.png"}\n',
  });
  const { rows } = await read(folder, {
    ...{ imageColumn: 'img', captionColumn: 'alt', rejectedColumn: 'bad' },
  });
  expect(rows).toMatchObject([
    {
      caption: 'A',
      image: { file: join(folder, 'a.png') },
      rejected: { file: join(folder, 'b.png') },
    },
  ]);
  await expect(read(folder, { imageColumn: 'img', captionColumn: 'no' })).rejects.toThrow(
    'metadata.jsonl:1: no: expected a string, got only img, alt, text, bad.',
  );
});
