import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { expect, it } from 'vitest';
import { bucketTable, ImageReader, localFiles, openDataSource } from '@spindle/data';
import { decodeImage } from '@spindle/models';
import { ContactSheet } from './contact-sheet.js';
import { Counter } from './counter.js';
import { inspectDataSet } from './inspect.js';
import { describeReport } from './text.js';

const image = (width: number, height: number, r: number): Promise<Buffer> =>
  sharp({ create: { width, height, channels: 3, background: { r, g: 0, b: 0 } } })
    .png()
    .toBuffer();

it('counts, measures and names what is wrong, and draws what is right', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'inspect-'));
  const files: Record<string, Buffer> = {
    'a.png': await image(40, 20, 255),
    'b.png': await image(10, 20, 0),
    'again.png': await image(40, 20, 255),
    'cut.png': (await image(40, 20, 9)).subarray(0, 60),
    'text.png': Buffer.from('no image'),
  };
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
  writeFileSync(
    join(folder, 'rows.csv'),
    'image,text\na.png,one\nb.png,two words\nagain.png,one\ncut.png,four words are long\ntext.png,\ngone.png,x\n,y\n',
  );
  const source = await openDataSource(
    { path: join(folder, 'rows.csv'), format: 'auto' },
    localFiles,
  );
  const reader = new ImageReader(localFiles);
  const sheet = new ContactSheet({ side: 16, columns: 2 });
  const { signal } = new AbortController();
  const report = await inspectDataSet(
    source,
    {
      read: (row) => reader.read(row.image, signal),
      look: async (bytes, where) => ({ ...(await decodeImage(bytes, where)), format: 'png' }),
      tokens: (caption) => (caption === '' ? 0 : caption.split(' ').length) + 2,
      show: (bytes, row, index) =>
        sheet.offer(bytes, { index, position: row.position, caption: row.caption }),
      progress: () => undefined,
    },
    {
      limit: undefined,
      resolution: 16,
      tokenLimit: 5,
      buckets: bucketTable(16, { step: 4, maxRatio: 2.5 }),
    },
  );
  expect(report).toMatchObject({
    format: 'csv',
    rows: 6,
    usable: 3,
    pairs: 0,
    skipped: [{ reason: 'no image', count: 1, first: ['rows.csv:8'] }],
    rejected: [
      {
        reason: 'expected an image, got a file that does not decode',
        count: 2,
        first: ['rows.csv:5', 'rows.csv:6'],
      },
      { reason: 'expected an image file, got no such file', count: 1, first: ['rows.csv:7'] },
    ],
    rejectedRows: [
      {
        position: 'rows.csv:5',
        message: expect.stringMatching(
          /cut\.png: expected an image, got a file that does not decode/,
        ) as string,
      },
      { position: 'rows.csv:6' },
      { position: 'rows.csv:7' },
    ],
    images: {
      width: { least: 10, median: 40, most: 40, mean: 30 },
      height: { least: 20, most: 20 },
      smaller: 1,
    },
    buckets: [
      { width: 12, height: 20, images: 1 },
      { width: 16, height: 16, images: 0 },
      { width: 20, height: 12, images: 2 },
    ],
    captions: { empty: 1, tokens: { least: 2, most: 6 }, limit: 5, over: 1 },
    duplicates: { captions: 1, distinctCaptions: 5, images: 1, distinctImages: 2 },
  });
  const lines = describeReport(report, 'sheet.png').join('\n');
  expect(lines).toContain('csv: 6 rows in 1 file, 3 usable, 3 rejected.');
  expect(lines).toContain(
    'rejected: 2 × expected an image, got a file that does not decode (rows.csv:5, rows.csv:6).',
  );
  expect(lines).toContain('tokens, 1 over 5; 1 empty.');
  expect(lines).toContain('buckets: 12×20 × 1, 16×16 × 0, 20×12 × 2.');

  const drawn = await sheet.render();
  expect(drawn?.cells.map((cell) => cell.position)).toEqual([
    'rows.csv:2',
    'rows.csv:3',
    'rows.csv:4',
  ]);
  const { data, info } = await sharp(drawn?.png).raw().toBuffer({ resolveWithObject: true });
  expect([info.width, info.height]).toEqual([2 * 20 + 4, 2 * 20 + 4]);
  const pixel = (x: number, y: number): number[] => [
    ...data.subarray(
      (y * info.width + x) * info.channels,
      (y * info.width + x) * info.channels + 3,
    ),
  ];
  // The middle of the first cell is the red image, its upper edge the white beside it.
  expect([pixel(12, 12), pixel(12, 5), pixel(32, 12), pixel(1, 1)]).toEqual([
    [255, 0, 0],
    [255, 255, 255],
    [0, 0, 0],
    [128, 128, 128],
  ]);
});

it('tells what it found before a data set that is cut short, and why it ended there', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'inspect-'));
  writeFileSync(join(folder, 'a.png'), await image(4, 4, 1));
  writeFileSync(join(folder, 'rows.csv'), 'image,text\na.png,one\na.png,two,three\n');
  const report = await inspectDataSet(
    await openDataSource({ path: join(folder, 'rows.csv'), format: 'auto' }, localFiles),
    {
      read: (row) => new ImageReader(localFiles).read(row.image, new AbortController().signal),
      look: async (bytes, where) => ({ ...(await decodeImage(bytes, where)), format: 'png' }),
      tokens: null,
      show: async () => undefined,
      progress: () => undefined,
    },
    { limit: undefined, resolution: 4, tokenLimit: 77, buckets: null },
  );
  expect(report).toMatchObject({
    rows: 1,
    usable: 1,
    error: `${join(folder, 'rows.csv')}:3: expected 2 fields, got 3.`,
  });
});

it('spreads the sheet over a data set of any length', async () => {
  const sheet = new ContactSheet({ side: 2, columns: 4, rows: 2 });
  const bytes = await image(2, 2, 1);
  for (let index = 0; index < 100; index++)
    await sheet.offer(bytes, { index, position: '', caption: '' });
  expect((await sheet.render())?.cells.map((cell) => cell.index)).toEqual([
    0, 16, 32, 48, 64, 80, 96,
  ]);
});

it('finds quantiles of counts', () => {
  const counter = new Counter();
  expect(counter.summary()).toEqual({ least: 0, median: 0, p95: 0, most: 0, mean: 0 });
  for (let i = 1; i <= 100; i++) counter.add(i);
  expect(counter.summary()).toEqual({ least: 1, median: 50, p95: 95, most: 100, mean: 50.5 });
  expect(counter.above(90)).toBe(10);
});
