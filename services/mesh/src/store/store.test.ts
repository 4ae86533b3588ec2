import { create } from '@bufbuild/protobuf';
import { ArtifactRefSchema } from '@spindle/proto';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import {
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  stat,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { sha256File, writeFileAtomic } from '@spindle/kit';
import { everyBitFlip } from '@spindle/kit/testing';
import { openLocalStore } from './local.js';
import type { ArtifactStore } from './store.js';

let root: string;
let store: ArtifactStore;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'spindle-store-'));
  store = await openLocalStore(root);
});

afterEach(async () => {
  await rm(root, { recursive: true, force: true });
});

function blobPath(hex: string): string {
  return join(root, 'store', 'sha256', hex.slice(0, 2), hex);
}

test('a blob is named by its digest and comes back as it was', async () => {
  const data = Buffer.from('hello');
  const ref = await store.put(data, 'text/plain');
  const hex = createHash('sha256').update(data).digest('hex');
  expect(ref).toMatchObject({ digest: `sha256:${hex}`, bytes: 5n, mediaType: 'text/plain' });
  expect(await readFile(blobPath(hex))).toEqual(data);
  expect(await store.get(ref)).toEqual(data);
  expect(await store.has(ref)).toBe(true);
  expect(await readFile(await store.localPath(ref))).toEqual(data);
  expect(await store.put(data, 'text/plain')).toEqual(ref);
});

test('a blob that is deleted is gone, and may be put again', async () => {
  const [ref, other] = [
    await store.put(Buffer.from('a'), 'x'),
    await store.put(Buffer.from('b'), 'x'),
  ];
  await store.localPath(ref);
  await store.deleteBlob(ref);
  await store.deleteBlob(ref);
  expect([await store.has(ref), await store.has(other)]).toEqual([false, true]);
  await expect(store.localPath(ref)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await store.put(Buffer.from('a'), 'x');
  expect(await readFile(await store.localPath(ref), 'utf8')).toBe('a');
});

test('an empty blob is a blob', async () => {
  const ref = await store.put(new Uint8Array(), 'x');
  expect(await store.get(ref)).toHaveLength(0);
});

test('a file is copied, or moved when asked', async () => {
  const path = join(root, 'file');
  await writeFile(path, 'x'.repeat(3_000_000));
  const copied = await store.putFile(path, 'x');
  expect(existsSync(path)).toBe(true);
  const moved = await store.putFile(path, 'x', { move: true });
  expect(moved).toEqual(copied);
  expect(existsSync(path)).toBe(false);
  await writeFile(path, 'other');
  const other = await store.putFile(path, 'x', { move: true });
  expect(existsSync(path)).toBe(false);
  expect((await store.get(other)).toString()).toBe('other');
  expect(await readdir(join(root, 'store', 'tmp'))).toEqual([]);
});

test('a blob whose bytes changed is reported, set aside and can be put again', async () => {
  const data = Buffer.from('precious');
  const ref = await store.put(data, 'x');
  await writeFile(blobPath(ref.digest.slice(7)), 'preciouS');
  await expect(store.get(ref)).rejects.toMatchObject({
    code: 'DATA_LOSS',
    message: expect.stringContaining(ref.digest) as string,
  });
  await expect(store.get(ref)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect(await readdir(join(root, 'store', 'damaged'))).toHaveLength(1);
  await store.put(data, 'x');
  expect(await store.get(ref)).toEqual(data);
});

test('a truncated blob is healed by putting it again', async () => {
  const data = Buffer.from('precious');
  const ref = await store.put(data, 'x');
  await truncate(blobPath(ref.digest.slice(7)), 3);
  expect(await store.has(ref)).toBe(false);
  await store.put(data, 'x');
  expect(await store.get(ref)).toEqual(data);
});

test('a local path is checked again when the file behind it changed', async () => {
  const ref = await store.put(Buffer.from('precious'), 'x');
  const path = await store.localPath(ref);
  expect(await store.localPath(ref)).toBe(path);
  await writeFile(path, 'preciouS');
  await utimes(path, 1, 1);
  await expect(store.localPath(ref)).rejects.toMatchObject({ code: 'DATA_LOSS' });
});

test('what is not there is said to be not there', async () => {
  const ref = create(ArtifactRefSchema, { digest: `sha256:${'0'.repeat(64)}`, bytes: 1n });
  await expect(store.get(ref)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(store.localPath(ref)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect(await store.has(ref)).toBe(false);
});

test.each([
  '',
  'sha256:',
  `sha256:${'0'.repeat(63)}`,
  `sha256:../${'0'.repeat(61)}`,
  `SHA256:${'0'.repeat(64)}`,
])('the digest "%s" is refused', async (digest) => {
  await expect(store.get(create(ArtifactRefSchema, { digest }))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
});

test('of two results under one key the first stays', async () => {
  expect(await store.commitResult('r1/encode/0003', '{"a":1}')).toBe('committed');
  expect(await store.commitResult('r1/encode/0003', '{"a":2}')).toBe('exists');
  expect(await store.getResult('r1/encode/0003')).toBe('{"a":1}');
  expect(await store.getResult('r1/encode/0004')).toBeNull();
});

test('of many writers at once exactly one commits', async () => {
  const outcomes = await Promise.all(
    Array.from({ length: 20 }, (_, i) => store.commitResult('r1/encode/0000', String(i))),
  );
  expect(outcomes.filter((outcome) => outcome === 'committed')).toHaveLength(1);
  expect(await store.getResult('r1/encode/0000')).toBe(String(outcomes.indexOf('committed')));
  expect(await readdir(join(root, 'store', 'tmp'))).toEqual([]);
});

test('results are listed and deleted by whole segments of their keys', async () => {
  for (const key of [
    'r1/encode/0001',
    'r1/encode/0000',
    'r1/encode-x/0000',
    'r1/train-spin1',
    'r10/encode/0000',
  ]) {
    await store.commitResult(key, '{}');
  }
  expect(await store.listResults('r1/encode')).toEqual(['r1/encode/0000', 'r1/encode/0001']);
  expect(await store.listResults('r1/train-spin1')).toEqual(['r1/train-spin1']);
  expect(await store.listResults('r1/')).toEqual([
    'r1/encode-x/0000',
    'r1/encode/0000',
    'r1/encode/0001',
    'r1/train-spin1',
  ]);
  await store.deleteResults('r1');
  expect(await store.listResults('r1')).toEqual([]);
  expect(await store.listResults('r10')).toEqual(['r10/encode/0000']);
  await store.deleteResults('r1');
  expect(await store.commitResult('r1/train-spin1', '{}')).toBe('committed');
});

test('checkpoints are deleted with the keys below a prefix, and no others', async () => {
  const [gone, other] = [
    await store.checkpointDir('r1/train-spin1'),
    await store.checkpointDir('r10/train-spin1'),
  ];
  await store.deleteCheckpoints('r1');
  await expect(stat(gone)).rejects.toMatchObject({ code: 'ENOENT' });
  expect((await stat(other)).isDirectory()).toBe(true);
  await store.deleteCheckpoints('r1');
});

test.each([
  '',
  '/',
  '..',
  '../x',
  'a/../../x',
  'a//b',
  '/etc/passwd',
  'a/.hidden',
  'a\0b',
  'a b',
  'a/b\\c',
  'x'.repeat(200),
])('the key "%s" is refused', async (key) => {
  await expect(store.commitResult(key, '{}')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(store.checkpointDir(key)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
});

test('a checkpoint folder survives opening the store again', async () => {
  const dir = await store.checkpointDir('r1/train-spin1');
  await writeFile(join(dir, 'step'), '50');
  const again = await openLocalStore(root);
  expect(await again.checkpointDir('r1/train-spin1')).toBe(dir);
  expect(await readFile(join(dir, 'step'), 'utf8')).toBe('50');
});

test('what a killed process left is removed on opening, what a living one or the last hour wrote is not', async () => {
  const folder = join(root, 'store', 'tmp');
  const dead = 2 ** 22 + 1;
  const old = Date.now() / 1000 - 7_200;
  for (const [name, time] of [
    [`.${dead}.aa.tmp`, old],
    [`.${dead}.bb.tmp`, Date.now() / 1000],
    [`.${process.pid}.cc.tmp`, old],
  ] as const) {
    await writeFile(join(folder, name), 'x');
    await utimes(join(folder, name), time, time);
  }
  await openLocalStore(root);
  expect((await readdir(folder)).sort()).toEqual(
    [`.${dead}.bb.tmp`, `.${process.pid}.cc.tmp`].sort(),
  );
});

test('a temporary folder is fresh each time', async () => {
  const first = await store.tempDir();
  expect(await store.tempDir()).not.toBe(first);
  expect((await stat(first)).isDirectory()).toBe(true);
});

test('writing a file atomically replaces it whole and leaves nothing else', async () => {
  const path = join(root, 'deep', 'er', 'file.json');
  await writeFileAtomic(path, 'one');
  await writeFileAtomic(path, 'two');
  expect(await readFile(path, 'utf8')).toBe('two');
  expect(await readdir(join(root, 'deep', 'er'))).toEqual(['file.json']);
  expect(await sha256File(path)).toBe(createHash('sha256').update('two').digest('hex'));
});

test('a result with any flipped bit is no result: it is set aside, and can be committed anew', async () => {
  const key = 'r1/eval-score-base/0000';
  await store.commitResult(key, '{"key":"r1","scores":[{"values":[3.2237]}],"worker":"w1"}');
  const file = join(root, 'store/results', `${key}.json`);
  const whole = await readFile(file);
  for (const damaged of everyBitFlip(whole.toString('utf8'))) {
    await writeFile(file, damaged);
    expect(await store.getResult(key)).toBeNull();
    expect(existsSync(file)).toBe(false);
  }
  expect(await store.commitResult(key, '{"a":1}')).toBe('committed');
  expect(await store.getResult(key)).toBe('{"a":1}');
});

test('results of versions that sealed none are read', async () => {
  const file = join(root, 'store/results/r1/encode/0000.json');
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, '{"key":"r1/encode/0000"}');
  expect(await store.getResult('r1/encode/0000')).toBe('{"key":"r1/encode/0000"}');
});
