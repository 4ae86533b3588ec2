import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { decodeRowGroup } from './parquet-decoder.js';
import { ParquetFile } from './parquet.js';
import { openFiles } from './s3-files.js';

const fixtures = join(import.meta.dirname, '../fixtures');
const opened = async (name: string) => {
  const path = join(fixtures, name);
  const data = readFileSync(path);
  const { metadata, rows, columns } = await ParquetFile.open(openFiles(), path);
  const request = { metadata, bytes: data.length, columns, rowStart: 0, rowEnd: rows };
  const read = async (start: number, end: number) =>
    new Uint8Array(data.subarray(start, end)).buffer;
  return { request, read };
};

it('stops what decodes a damaged count, and goes on with the next file', async () => {
  const { request, read } = await opened('endless-run.parquet');
  await expect(decodeRowGroup(request, read, { silentMs: 300, heapMb: 512 })).rejects.toThrow(
    /decoding took more than 0.3 s/,
  );
  const sound = await opened('pickapic.parquet');
  expect(await decodeRowGroup(sound.request, sound.read)).toHaveLength(sound.request.rowEnd);
});

it('rejects with what reading the file rejects with', async () => {
  const { request } = await opened('pickapic.parquet');
  const read = () => Promise.reject(new Error('the disk is gone'));
  await expect(decodeRowGroup(request, read)).rejects.toThrow('the disk is gone');
});
