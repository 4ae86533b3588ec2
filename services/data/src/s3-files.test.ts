import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it, vi } from 'vitest';
import { ObjectStore } from '@spindle/kit';
import { startTestS3, type TestS3 } from '@spindle/kit/testing';
import { ImageReader } from './images.js';
import { openDataSource } from './open.js';
import { openFiles } from './s3-files.js';
import { dataFolder, readAll } from './testing/data.js';

let s3: TestS3;
beforeAll(async () => {
  s3 = await startTestS3();
});
afterAll(() => s3.close());
beforeEach(() => {
  for (const [name, value] of Object.entries(s3.environment)) vi.stubEnv(name, value);
  s3.objects.clear();
});
afterEach(() => {
  vi.unstubAllEnvs();
});

const { signal } = new AbortController();
const files = () => openFiles(new ObjectStore({ attempts: 3, firstWaitMs: 1 }));
const read = async (path: string) =>
  readAll(await openDataSource({ path, format: 'auto' }, files()));
const text = async (
  row: Awaited<ReturnType<typeof read>>['rows'][number] | undefined,
): Promise<string> => {
  if (!row) throw new Error('expected a row, got none');
  return (await new ImageReader(files(), []).read(row.image, signal)).toString('latin1');
};

it('reads an image folder from a bucket', async () => {
  s3.objects.set(
    'bucket/set/metadata.jsonl',
    Buffer.from('{"file_name":"a b.png","text":"one"}\n{"file_name":"sub/é.png","text":"two"}\n'),
  );
  s3.objects.set('bucket/set/a b.png', Buffer.from('A'));
  s3.objects.set('bucket/set/sub/é.png', Buffer.from('E'));
  s3.objects.set('bucket/settings/x.png', Buffer.from('of another folder'));
  const { rows, warnings } = await read('s3://bucket/set');
  expect(rows.map((row) => [row.caption, row.image])).toEqual([
    ['one', { kind: 'file', file: 's3://bucket/set/a b.png' }],
    ['two', { kind: 'file', file: 's3://bucket/set/sub/é.png' }],
  ]);
  expect(warnings).toEqual([]);
  s3.log.length = 0;
  expect(await text(rows[1])).toBe('E');
  expect(s3.log).toEqual(['GET /bucket/set/sub/é.png']);
  s3.objects.delete('bucket/set/sub/é.png');
  await expect(text(rows[1])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(read('s3://bucket/set')).rejects.toThrow(
    'expected a file for every row, got none for sub/é.png (line 2)',
  );
});

it('reads shards and parquet files from a bucket, whole rows by range', async () => {
  const folder = dataFolder({
    's/1.txt': 'one',
    's/1.jpg': 'first',
    's/2.txt': 'two',
    's/2.jpg': 'second',
  });
  execFileSync('tar', ['--sort=name', '-cf', join(folder, 'a.tar'), '-C', join(folder, 's'), '.']);
  s3.objects.set('bucket/wds/a.tar', readFileSync(join(folder, 'a.tar')));
  const shards = await read('s3://bucket/wds');
  expect([await text(shards.rows[0]), await text(shards.rows[1])]).toEqual(['first', 'second']);
  s3.objects.set(
    'bucket/pap/train-00000-of-00001.parquet',
    readFileSync(new URL('../fixtures/pickapic.parquet', import.meta.url)),
  );
  const pairs = await read('s3://bucket/pap/train-*');
  expect(pairs.rows).toHaveLength(6);
  expect((await text(pairs.rows[5])).slice(0, 2)).toBe('\xff\xd8');
});

it('says that a store does not answer, and not that the image is bad', async () => {
  s3.objects.set('bucket/a.csv', Buffer.from('image,text\nx.png,one\n'));
  s3.objects.set('bucket/x.png', Buffer.from('X'));
  const { rows } = await read('s3://bucket/a.csv');
  s3.faults.push(500, 500, 500);
  await expect(text(rows[0])).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: expect.stringContaining(
      's3://bucket/x.png: the store fails after 3 attempts (500 ',
    ) as string,
  });
  s3.faults.push(403);
  await expect(text(rows[0])).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  await expect(read('s3://bucket/nothing')).rejects.toThrow(
    'data.path: expected a folder or a file, got "s3://bucket/nothing", which does not exist.',
  );
});
