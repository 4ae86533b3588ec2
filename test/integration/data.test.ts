import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { printable } from '@spindle/kit';
import { startTestS3, type TestS3 } from '@spindle/kit/testing';
import { cli } from '../harness/cli.js';
import { root } from '../harness/child.js';
import { scenes } from '../harness/files.js';

const pickapic = join(root, 'services/data/fixtures/pickapic.parquet');
let folder: string;
let s3: TestS3;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'inspect-'));
  s3 = await startTestS3();
});
afterAll(async () => {
  await s3.close();
  await rm(folder, { recursive: true, force: true });
});

describe('spindle data inspect, without a mesh', () => {
  it("counts a run config's data with its model's tokenizer, and draws a sheet", async () => {
    const sheet = join(folder, 'sheet.png');
    const flags = ['--limit', '20', '--sheet', sheet, '--buckets', '--json'];
    const { code, stdout, stderr } = await cli([
      'data',
      'inspect',
      join(scenes, 'run.yaml'),
      ...flags,
    ]);
    expect([code, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toMatchObject({
      format: 'folder',
      rows: 20,
      usable: 20,
      rejected: [],
      images: { formats: { png: 20 }, width: { least: 64, most: 64 }, smaller: 0 },
      captions: { limit: 32, over: 0, tokens: { least: expect.any(Number) as number } },
      // At 64 pixels a step of 64 leaves the square alone.
      buckets: [{ width: 64, height: 64, images: 20 }],
      sheet: { file: sheet },
    });
    expect((await stat(sheet)).size).toBeGreaterThan(1000);
  });

  it('reads Pick-a-Pic from an S3-compatible store', async () => {
    s3.objects.set('bucket/data/train-00000-of-00001.parquet', await readFile(pickapic));
    const { code, stdout, stderr } = await cli(
      ['data', 'inspect', 's3://bucket/data', '--no-sheet'],
      { env: s3.environment },
    );
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('pickapic: 6 rows in 1 file, 6 usable, 6 with a rejected image.');
    expect(stdout).toContain(
      'left out: 2 × tie (train-00000-of-00001.parquet:2, train-00000-of-00001.parquet:7).',
    );
  });

  it('spells out what data would say to a terminal', async () => {
    const evil = join(folder, '\u001b]0;pwned\u0007\u009b2J\u202e');
    await mkdir(evil);
    await writeFile(join(evil, 'metadata.jsonl'), '{"file_name":"\\u001b[2J.png","text":"x"}');
    for (const flags of [[], ['--json']]) {
      const { code, stdout, stderr } = await cli(['data', 'inspect', evil, '--no-sheet', ...flags]);
      expect(code).toBe(2);
      expect(stderr).toContain('\\x1b]0;pwned\\x07\\x9b2J\\u202e');
      expect(printable(stdout + stderr)).toBe(stdout + stderr);
    }
  });

  it('says in one sentence what is no data set', async () => {
    const { code, stderr } = await cli(['data', 'inspect', join(folder, 'nothing')]);
    expect([code, stderr]).toEqual([
      2,
      `spindle: data.path: expected a folder or a file, got "${join(folder, 'nothing')}", which does not exist.\n`,
    ]);
  });
});
