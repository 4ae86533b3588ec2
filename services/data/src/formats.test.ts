import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  mkdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { SpindleError } from '@spindle/kit';
import { philox } from '@spindle/kit/domain';
import { localFiles, type Files } from './files.js';
import { ImageReader } from './images.js';
import { openDataSource, type DataSpec } from './open.js';
import type { ImageRef } from './rows.js';
import { dataFolder, readAll } from './testing/data.js';

const fixtures = fileURLToPath(new URL('../fixtures/', import.meta.url));
const { signal } = new AbortController();
const read = async (path: string, more: Partial<DataSpec> = {}) =>
  readAll(await openDataSource({ path, format: 'auto', ...more }, localFiles));
const bytesOf = (
  ref: ImageRef | undefined,
  reader = new ImageReader(localFiles, []),
): Promise<Buffer> => {
  if (ref === undefined) throw new Error('expected a place of an image, got none');
  return reader.read(ref, signal);
};

describe('a parquet file', () => {
  it('may hold captions as bytes', async () => {
    const { rows, skipped } = await read(join(fixtures, 'binary-caption.parquet'));
    expect(rows).toHaveLength(3);
    expect(rows.every(({ caption }) => caption.length > 0)).toBe(true);
    expect(skipped).toEqual({});
  });

  it('may name its images instead of holding them, beside it or in the folder of data.images', async () => {
    const table = readFileSync(join(fixtures, 'image-path.parquet'));
    const folder = dataFolder({ 'path.parquet': table, '0.png': 'zero', 'more/0.png': 'more' });
    const path = join(folder, 'path.parquet');
    const beside = await read(path);
    expect(beside.rows).toHaveLength(3);
    expect(String(await bytesOf(beside.rows[0]?.image))).toBe('zero');
    const apart = await read(path, { images: join(folder, 'more') });
    expect(String(await bytesOf(apart.rows[0]?.image))).toBe('more');
    await expect(bytesOf(beside.rows[1]?.image)).rejects.toThrow('got no such file');
  });

  // A rejection that nobody awaits ends the process that reads: vitest fails on one.
  it.each([
    ['a page whose offset is none', 27300, 0],
    ['a schema with fewer columns than it states', 16941, 6],
  ])('is refused in a sentence: %s', async (_, at, bit) => {
    const bytes = readFileSync(join(fixtures, 'pickapic.parquet'));
    bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
    const path = join(dataFolder({ 'a.parquet': bytes }), 'a.parquet');
    const readImages = async () => {
      for (const { image } of (await read(path)).rows) await bytesOf(image);
    };
    await expect(readImages()).rejects.toBeInstanceOf(SpindleError);
    await new Promise((done) => setImmediate(done));
  });

  it('that is damaged is refused in a sentence, whatever bits are wrong', async () => {
    const sound = readFileSync(join(fixtures, 'pickapic.parquet'));
    let drawn = 0;
    const next = (): number => philox(20260n, [drawn++, 0, 0, 0])[0];
    let refused = 0;
    for (let trial = 0; trial < 400; trial++) {
      const bytes = Buffer.from(sound);
      // Half of the flips hit the footer, which says where everything is.
      const from = trial % 2 === 0 ? 0 : Math.max(0, bytes.length - 2000);
      for (let flip = 0; flip < 1 + (trial % 3); flip++) {
        const at = from + (next() % (bytes.length - from));
        bytes[at] = (bytes[at] ?? 0) ^ (1 << next() % 8);
      }
      const path = join(dataFolder({ 'a.parquet': bytes }), 'a.parquet');
      try {
        const { rows } = await read(path);
        for (const row of rows) await bytesOf(row.image);
      } catch (error) {
        expect(error).toBeInstanceOf(SpindleError);
        refused += 1;
      }
      rmSync(join(path, '..'), { recursive: true });
    }
    expect(refused).toBeGreaterThan(20);
  });
});

describe('Pick-a-Pic', () => {
  it('takes the winners in order, drops ties and rows without label or caption, and counts what it dropped', async () => {
    const { rows, skipped, warnings } = await read(join(fixtures, 'pickapic.parquet'));
    expect(
      rows.map((row) => [row.position, row.caption, row.image.kind === 'cell' && row.image.column]),
    ).toEqual([
      ['pickapic.parquet:0', 'a red fox', 'jpg_0'],
      ['pickapic.parquet:1', 'a red fox', 'jpg_1'],
      ['pickapic.parquet:3', 'a house by the sea', 'jpg_0'],
      ['pickapic.parquet:4', 'ein Fahrrad, größer als ein Haus', 'jpg_1'],
      ['pickapic.parquet:6', 'a red fox', 'jpg_1'],
      ['pickapic.parquet:8', 'last row of the third group', 'jpg_0'],
    ]);
    expect(skipped).toEqual({ tie: 2, 'no label': 1, 'no caption': 1 });
    expect(warnings).toEqual([
      'data: 2 rows repeat a prompt of an earlier row (4 distinct prompts).',
    ]);
  });

  it('refuses keys that mean nothing to it', async () => {
    await expect(
      read(join(fixtures, 'pickapic.parquet'), { imageColumn: 'jpg_1' }),
    ).rejects.toThrow(
      'data.image_column: expected nothing for a data set of format pickapic, got "jpg_1".',
    );
  });

  it('finds the bytes of every winner and loser by their row', async () => {
    const { rows } = await read(join(fixtures, 'pickapic.parquet'));
    const reader = new ImageReader(localFiles, []);
    const digest = async (ref: ImageRef | undefined) =>
      createHash('md5')
        .update(await bytesOf(ref, reader))
        .digest('hex');
    const pairs: string[][] = [];
    for (const row of rows) pairs.push([await digest(row.image), await digest(row.rejected)]);
    // Digests of the bytes that were written into jpg_0 and jpg_1.
    expect(pairs).toEqual(
      JSON.parse(readFileSync(join(fixtures, 'pickapic-digests.json'), 'utf8')),
    );
  });

  it('wants one split of a folder that has several', async () => {
    const folder = dataFolder({});
    for (const name of [
      'test-00000-of-00001-a1.parquet',
      'train-00000-of-00002-b2.parquet',
      'train-00001-of-00002-c3.parquet',
    ])
      copyFileSync(join(fixtures, 'pickapic.parquet'), join(folder, name));
    await expect(read(folder)).rejects.toThrow(
      `data.path: expected files of one split in ${folder}, got test, train; name one, for example ${folder}/train-*.`,
    );
    expect((await read(join(folder, 'train-*'))).rows).toHaveLength(12);
  });

  it('refuses a file without its columns, one that is cut short and one that is none', async () => {
    await expect(read(join(fixtures, 'hf-image.parquet'), { format: 'pickapic' })).rejects.toThrow(
      'expected the columns jpg_0, jpg_1, label_0, label_1, caption, got none named jpg_0, jpg_1, label_0, label_1, caption (it has image, text)',
    );
    const folder = dataFolder({ 'none.parquet': 'no parquet at all' });
    await expect(read(join(folder, 'none.parquet'))).rejects.toThrow(
      /none\.parquet: expected a parquet file, got one that does not decode/,
    );
    copyFileSync(join(fixtures, 'pickapic.parquet'), join(folder, 'cut.parquet'));
    truncateSync(join(folder, 'cut.parquet'), 9000);
    await expect(read(join(folder, 'cut.parquet'))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});

describe('a table', () => {
  it('may hold images as Hugging Face writes them', async () => {
    const { rows } = await read(join(fixtures, 'hf-image.parquet'));
    expect(rows.map((row) => row.caption)).toEqual(['one', 'two', 'three']);
    expect((await bytesOf(rows[2]?.image)).subarray(0, 3)).toEqual(Buffer.from([0xff, 0xd8, 0xff]));
    await expect(
      bytesOf({ kind: 'cell', file: join(fixtures, 'hf-image.parquet'), row: 3, column: 'image' }),
    ).rejects.toThrow('row 3: image: expected one of 3 rows; the file has changed');
  });

  it('may name images by path, in parquet or CSV, beside it or in a folder of their own', async () => {
    const folder = dataFolder({
      'a.png': 'A',
      'images/a.png': 'B',
      'rows.csv': 'file_name,caption,bad\na.png,"one, two",b.png\n,three,c.png\n',
      'rows.tsv': 'picture\ttext\na.png\tone\n',
    });
    copyFileSync(join(fixtures, 'paths.parquet'), join(folder, 'paths.parquet'));
    const table = await read(join(folder, 'paths.parquet'));
    expect(table.rows.map((row) => [row.caption, row.image])).toEqual([
      ['one', { kind: 'file', file: join(folder, 'a.png') }],
      ['two', { kind: 'file', file: join(folder, 'sub/b.png') }],
    ]);
    expect(table.skipped).toEqual({ 'no image': 1 });
    const csv = await read(join(folder, 'rows.csv'), {
      rejectedColumn: 'bad',
      images: join(folder, 'images'),
    });
    expect(csv.rows).toEqual([
      {
        key: 'rows.csv:2',
        caption: 'one, two',
        image: { kind: 'file', file: join(folder, 'images/a.png') },
        rejected: { kind: 'file', file: join(folder, 'images/b.png') },
        position: 'rows.csv:2',
      },
    ]);
    expect((await bytesOf(csv.rows[0]?.image)).toString()).toBe('B');
    expect(csv.skipped).toEqual({ 'no image': 1 });
    expect((await read(join(folder, 'rows.tsv'), { imageColumn: 'picture' })).rows).toHaveLength(1);
    await expect(read(join(folder, 'rows.tsv'))).rejects.toThrow(
      `data.image_column: expected one of the columns of ${folder}/rows.tsv (picture, text), got nothing, and none has a usual name.`,
    );
    writeFileSync(join(folder, 'out.csv'), 'image,text\n../secret.png,x\n');
    await expect(read(join(folder, 'out.csv'))).rejects.toThrow(
      'image: expected a path inside the data folder, got "../secret.png"',
    );
  });
});

describe('prompts and a folder of winners', () => {
  it('are matched by number, or in order when there are as many', async () => {
    const folder = dataFolder({
      'p.txt': 'one\n\ntwo\nthree\n',
      'w/2.png': 'c',
      'w/00.jpg': 'a',
      'n/x.png': '',
      'n/y.png': '',
      'n/z.webp': '',
    });
    const numbered = await read(join(folder, 'p.txt'), { images: join(folder, 'w') });
    expect(numbered.rows.map((row) => [row.caption, row.image, row.position])).toEqual([
      ['one', { kind: 'file', file: join(folder, 'w/00.jpg') }, 'p.txt:1'],
      ['three', { kind: 'file', file: join(folder, 'w/2.png') }, 'p.txt:4'],
    ]);
    expect(numbered.skipped).toEqual({ 'no image': 1 });
    const named = await read(join(folder, 'p.txt'), { images: join(folder, 'n') });
    expect(named.rows.map((row) => row.image)).toEqual(
      ['x.png', 'y.png', 'z.webp'].map((name) => ({ kind: 'file', file: join(folder, 'n', name) })),
    );
    await expect(read(join(folder, 'p.txt'))).rejects.toThrow(
      'data.images: expected the folder with an image for every prompt',
    );
    writeFileSync(join(folder, 'w/3.png'), '');
    await expect(read(join(folder, 'p.txt'), { images: join(folder, 'w') })).rejects.toThrow(
      'expected numbers from 0 to 2 (prompts), got 3.png',
    );
    rmSync(join(folder, 'n/z.webp'));
    await expect(read(join(folder, 'p.txt'), { images: join(folder, 'n') })).rejects.toThrow(
      'expected 3 images (one per prompt), or names that are the prompts',
    );
  });
});

describe('WebDataset shards', () => {
  const longName = `${'deep/'.repeat(30)}${'n'.repeat(80)}`;
  const samples = (folder: string): void => {
    mkdirSync(join(folder, 's', 'deep/'.repeat(30)), { recursive: true });
    for (const [name, text] of Object.entries({
      '0001.jpg': 'first image',
      '0001.txt': 'a first caption\n',
      '0002.json': '{"caption": "from JSON", "width": 3}',
      '0002.png': 'x'.repeat(20_000),
      '0002.cls': '3',
      '0003.txt': 'no image here',
      '0004.webp': 'no caption here',
      [`${longName}.txt`]: 'a long name',
      [`${longName}.jpg`]: 'long',
    }))
      writeFileSync(join(folder, 's', name), text);
  };

  it.each(['ustar', 'gnu', 'pax'])('are indexed without unpacking (%s headers)', async (format) => {
    const folder = dataFolder({});
    samples(folder);
    execFileSync('tar', [
      `--format=${format}`,
      '--sort=name',
      '-cf',
      join(folder, 'a-000.tar'),
      '-C',
      join(folder, 's'),
      '.',
    ]);
    rmSync(join(folder, 's'), { recursive: true });
    const { rows, skipped } = await read(folder);
    expect(new Map(rows.map((row) => [row.position, row.caption]))).toEqual(
      new Map([
        ['a-000.tar:0001', 'a first caption'],
        ['a-000.tar:0002', 'from JSON'],
        [`a-000.tar:${longName}`, 'a long name'],
      ]),
    );
    expect(skipped).toEqual({ 'no image': 1, 'no caption': 1 });
    const images = new Map<string, string>();
    for (const row of rows) images.set(row.caption, (await bytesOf(row.image)).toString());
    expect(images).toEqual(
      new Map([
        ['a first caption', 'first image'],
        ['from JSON', 'x'.repeat(20_000)],
        ['a long name', 'long'],
      ]),
    );
  });

  it('may hold a rejected image', async () => {
    const folder = dataFolder({
      's/1.chosen.jpg': 'good',
      's/1.rejected.jpg': 'bad',
      's/1.json': '{"p": "pair"}',
      's/2.chosen.jpg': 'x',
      's/2.json': '{"p": "y"}',
    });
    execFileSync('tar', [
      '--sort=name',
      '-cf',
      join(folder, 'a.tar'),
      '-C',
      join(folder, 's'),
      '.',
    ]);
    const { rows, skipped } = await read(join(folder, 'a.tar'), {
      imageColumn: 'chosen.jpg',
      rejectedColumn: 'rejected.jpg',
      captionColumn: 'p',
    });
    expect(rows).toHaveLength(1);
    expect([
      (await bytesOf(rows[0]?.image)).toString(),
      (await bytesOf(rows[0]?.rejected)).toString(),
      rows[0]?.caption,
    ]).toEqual(['good', 'bad', 'pair']);
    expect(skipped).toEqual({ 'no rejected image': 1 });
  });

  it('are refused when they are cut short, compressed or no tar files, and an image beyond the end of its shard is a bad one', async () => {
    const folder = dataFolder({});
    samples(folder);
    const tar = join(folder, 'a.tar');
    execFileSync('tar', [
      '--sort=name',
      '-cf',
      tar,
      '-C',
      join(folder, 's'),
      '0001.txt',
      '0001.jpg',
      '0002.json',
      '0002.png',
    ]);
    const { rows } = await read(tar);
    writeFileSync(join(folder, 'z.tar'), gzipSync(readFileSync(tar)));
    await expect(read(join(folder, 'z.tar'))).rejects.toThrow(
      'expected an uncompressed tar file, got a gzip file; unpack it with gunzip',
    );
    writeFileSync(join(folder, 'x.tar'), 'x'.repeat(1024));
    await expect(read(join(folder, 'x.tar'))).rejects.toThrow(
      'x.tar: byte 0: expected a tar header',
    );
    truncateSync(tar, 10_000);
    await expect(read(tar)).rejects.toThrow(
      /expected 20000 bytes of "0002\.png" at byte \d+, got a file that ends at 10000; it was cut short/,
    );
    await expect(bytesOf(rows[1]?.image)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    truncateSync(tar, 600);
    await expect(read(tar)).rejects.toThrow('it was cut short');
  });
});

describe('reading an image', () => {
  const flaky = (errors: Error[]): Files => ({
    ...localFiles,
    find: async () => ({ kind: 'file', bytes: 2 }),
    read: async () => {
      const error = errors.shift();
      if (error !== undefined) throw error;
      return Buffer.from(new Uint8Array([1, 2]).buffer);
    },
  });
  const ref: ImageRef = { kind: 'file', file: '/mount/a.png' };
  const passing = () => new SpindleError('UNAVAILABLE', 'EIO');

  it('tries failures again that may pass, and never calls them a bad image', async () => {
    expect(
      await new ImageReader(flaky([passing(), passing()]), [1, 1]).read(ref, signal),
    ).toHaveLength(2);
    await expect(
      new ImageReader(flaky([passing(), passing(), passing()]), [1, 1]).read(ref, signal),
    ).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  });

  it('names what is missing', async () => {
    const folder = dataFolder({ 'a/b.png': '' });
    await expect(bytesOf({ kind: 'file', file: join(folder, 'none.png') })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: `${join(folder, 'none.png')}: expected an image file, got no such file`,
    });
    await expect(bytesOf({ kind: 'file', file: join(folder, 'a') })).rejects.toThrow(
      'expected an image file, got a folder',
    );
  });
});

describe('a tar that was appended to', () => {
  it('leaves out samples with two members of one name, and counts them', async () => {
    const folder = dataFolder({ 'a.png': '1', 'a.txt': 'one', 'b.png': '2', 'b.txt': 'two' });
    execFileSync('tar', ['-cf', 'x.tar', 'a.png', 'a.txt'], { cwd: folder });
    execFileSync('tar', ['-rf', 'x.tar', 'a.png', 'a.txt', 'b.png', 'b.txt'], { cwd: folder });
    const { rows, skipped } = await read(join(folder, 'x.tar'));
    expect(rows.map(({ key }) => key)).toEqual(['x.tar:b']);
    expect(skipped).toEqual({ 'two members of the same name': 1 });
  });
});

describe('prompts and images without numbers of their own', () => {
  it('are paired by the numbers in the names, and that is said where it matters', async () => {
    const names = Array.from({ length: 12 }, (_, i) => `img${i + 1}.png`);
    const folder = dataFolder({
      ...Object.fromEntries(names.map((name) => [`i/${name}`, ''])),
      'p.txt': names.join('\n'),
    });
    const images = join(folder, 'i');
    const { rows, warnings } = await read(join(folder, 'p.txt'), { images });
    for (const { caption, image } of rows) expect(image.file).toBe(join(images, caption));
    expect(rows).toHaveLength(12);
    expect(warnings).toEqual([
      expect.stringContaining('in the order of the numbers in their names'),
    ]);
  });
});
