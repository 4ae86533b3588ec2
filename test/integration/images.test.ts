import { RunStatus } from '@spindle/proto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { scenes } from '../harness/files.js';
import { Mesh } from '../harness/mesh.js';

const size = { width: 64, height: 64 };
const source = join(scenes, 'train/0000.png');
const solid = (width: number, height: number) =>
  sharp({ create: { width, height, channels: 3, background: '#808080' } });

const converted: Record<string, () => Promise<Buffer>> = {
  'alpha.png': () =>
    sharp({ create: { ...size, channels: 4, background: { r: 255, g: 0, b: 0, alpha: 0.5 } } })
      .png()
      .toBuffer(),
  'cmyk.jpg': () => sharp(source).toColourspace('cmyk').jpeg().toBuffer(),
  'deep.png': () => sharp(source).toColourspace('rgb16').png().toBuffer(),
  'grey.png': () => sharp(source).greyscale().png().toBuffer(),
  'palette.png': () => sharp(source).png({ palette: true }).toBuffer(),
  'wide.webp': () => solid(200, 90).webp().toBuffer(),
};
const refused: Record<string, () => Promise<Buffer>> = {
  'broken.png': async () => (await readFile(source)).subarray(0, 300),
  'empty.png': async () => Buffer.alloc(0),
  'enormous.png': () => solid(8_100, 8_100).png({ compressionLevel: 1 }).toBuffer(),
  'text.png': async () => Buffer.from('not an image at all'),
};

describe('images of every kind', () => {
  let mesh: Mesh;
  let data: string;
  beforeAll(async () => {
    data = await mkdtemp(join(tmpdir(), 'spindle-images-'));
    const rows: string[] = [];
    for (const [name, make] of Object.entries({ ...converted, ...refused })) {
      await writeFile(join(data, name), await make());
      rows.push(JSON.stringify({ file_name: name, text: `a picture called ${name}` }));
    }
    await writeFile(join(data, 'metadata.jsonl'), rows.join('\n'));
    mesh = await Mesh.start();
  });
  afterAll(async () => {
    await mesh.stop();
    await rm(data, { recursive: true, force: true });
  });

  it('are converted, or left out and named; the run goes on without them', async () => {
    await mesh.create(
      { ...tinyConfig(), data: { path: data }, iterations: 1, max_missing: 0.5 },
      'images',
    );
    const run = await mesh.ended('images');
    expect(run.reason).toBe('');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    const warnings = run.warnings.join('\n');
    for (const name of Object.keys(refused)) expect(warnings).toContain(name);
    for (const name of Object.keys(converted)) expect(warnings).not.toContain(name);
  });

  it('end a run when too many of them are unreadable', async () => {
    await mesh.create(
      { ...tinyConfig(), data: { path: data }, iterations: 1, max_missing: 0.1 },
      'too-many',
    );
    const run = await mesh.ended('too-many');
    expect(run.status).toBe(RunStatus.FAILED);
    expect(run.reason).toMatch(
      /^encode lost \d of 10 items, more than max_missing 0.1 allows: \d unreadable images/,
    );
  });
});
