import { createHash } from 'node:crypto';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { ArtifactRefSchema } from '@spindle/proto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { ObjectStore } from '@spindle/kit';
import { startTestS3, type TestS3 } from '@spindle/kit/testing';
import { openStore } from './remote.js';

let s3: TestS3;
beforeAll(async () => {
  s3 = await startTestS3();
});
afterAll(() => s3.close());
beforeEach(() => {
  for (const [name, value] of Object.entries(s3.environment)) vi.stubEnv(name, value);
  s3.objects.clear();
  s3.log.length = 0;
  s3.faults.length = 0;
  s3.faultsFor = () => true;
});
afterEach(() => {
  vi.unstubAllEnvs();
});

const folder = (): string => mkdtempSync(join(tmpdir(), 'spindle-s3-'));
const at = (key: string) => ({ bucket: 'bucket', key });
const fast = (): ObjectStore =>
  new ObjectStore({ idleSeconds: 0.2, partBytes: 1000, attempts: 3, firstWaitMs: 1 });

describe('an object store', () => {
  it('reads ranges, with keys of any letters', async () => {
    const store = fast();
    const key = "a folder/größe+=&'(1).txt";
    expect(await store.head(at(key))).toBeNull();
    expect(await store.read(at(key), 0, 5)).toBeNull();
    await store.put(at(key), 'hello world');
    expect(s3.objects.get(`bucket/${key}`)?.toString()).toBe('hello world');
    expect(await store.head(at(key))).toBe(11);
    expect((await store.read(at(key), 6, 100))?.toString()).toBe('world');
    expect(await store.read(at(key), 11, 4)).toHaveLength(0);
  });

  it('lists all pages', async () => {
    for (const key of ['p/1', 'p/2', 'p/3', 'p/4', 'p/5', 'q/1'])
      s3.objects.set(`bucket/${key}`, Buffer.from(key));
    const found: string[] = [];
    for await (const { key } of fast().list(at('p/'))) found.push(key);
    expect(found).toEqual(['p/1', 'p/2', 'p/3', 'p/4', 'p/5']);
  });

  it('sends large files in parts, and leaves none behind when that fails', async () => {
    const file = join(folder(), 'large');
    const bytes = Buffer.from(Array.from({ length: 3456 }, (_, i) => i % 251));
    writeFileSync(file, bytes);
    await fast().putFile(at('large'), file);
    expect(s3.objects.get('bucket/large')).toEqual(bytes);
    expect(s3.log.filter((line) => line === 'PUT /bucket/large')).toHaveLength(4);
    s3.objects.clear();
    s3.faultsFor = ({ method }) => method === 'PUT';
    s3.faults.push(403);
    await expect(fast().putFile(at('large'), file)).rejects.toThrow(
      's3://bucket/large: the store refuses access (403 AccessDenied)',
    );
    expect([s3.objects.size, s3.uploads.size]).toEqual([0, 0]);
  });

  it('creates an object only once', async () => {
    expect(await fast().put(at('k'), 'first', { create: true })).toBe(true);
    expect(await fast().put(at('k'), 'second', { create: true })).toBe(false);
    expect(s3.objects.get('bucket/k')?.toString()).toBe('first');
  });

  it.each([
    ['overload', 503] as const,
    ['a server error', 500] as const,
    ['a body that breaks off', 'cut'] as const,
    ['silence', 'stall'] as const,
  ])('tries again after %s', async (_what, fault) => {
    s3.objects.set('bucket/k', Buffer.from('0123456789'));
    s3.faults.push(fault, fault);
    expect((await fast().read(at('k'), 2, 6))?.toString()).toBe('234567');
    expect(s3.log).toHaveLength(3);
  });

  it('says in one sentence what did not pass', async () => {
    s3.objects.set('bucket/k', Buffer.from('0123456789'));
    s3.faults.push(503, 503, 503);
    await expect(fast().read(at('k'), 0, 3)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: 's3://bucket/k: the store fails after 3 attempts (503 SlowDown)',
    });
    s3.faults.push('cut', 'cut', 'cut');
    await expect(fast().read(at('k'), 0, 10)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('after 3 attempts') as string,
    });
    s3.faults.push('stall', 'stall', 'stall');
    await expect(fast().read(at('k'), 0, 10)).rejects.toThrow(
      /s3:\/\/bucket\/k: the store does not answer after 3 attempts/,
    );
    s3.log.length = 0;
    s3.faults.push(403);
    await expect(fast().head(at('k'))).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
    expect(s3.log).toHaveLength(1);
    await expect(fast().put({ bucket: 'none', key: 'k' }, 'x')).rejects.toThrow(
      's3://none/k: the bucket does not exist',
    );
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'wrong');
    await expect(fast().put(at('k'), 'x')).rejects.toThrow(
      'the store refuses access (403 SignatureDoesNotMatch); check the credentials',
    );
    vi.stubEnv('AWS_ENDPOINT_URL_S3', 'http://127.0.0.1:1');
    await expect(fast().put(at('k'), 'x')).rejects.toThrow(
      /s3:\/\/bucket\/k: the store does not answer after 3 attempts \(.*ECONNREFUSED/,
    );
  });

  it('names what is missing without credentials', async () => {
    const { AWS_ENDPOINT_URL_S3 } = s3.environment;
    for (const name of Object.keys(s3.environment)) vi.stubEnv(name, undefined);
    vi.stubEnv('AWS_ENDPOINT_URL_S3', AWS_ENDPOINT_URL_S3);
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
    vi.stubEnv('HOME', folder());
    await expect(fast().head(at('k'))).rejects.toThrow(
      's3://bucket/k: expected credentials for S3 (AWS_ACCESS_KEY_ID',
    );
  });
});

describe('an artifact store in S3', () => {
  const open = (root = folder()) => openStore(root, 's3://bucket/spindle/', fast());
  const hex = (text: string): string => createHash('sha256').update(text).digest('hex');

  it('keeps blobs by digest and gives them to other machines', async () => {
    const one = await open();
    const ref = await one.put(Buffer.from('weights'), 'text/plain');
    expect([...s3.objects.keys()]).toEqual([
      `bucket/spindle/sha256/${hex('weights').slice(0, 2)}/${hex('weights')}`,
    ]);
    const other = await open();
    expect(await other.has(ref)).toBe(true);
    expect((await other.get(ref)).toString()).toBe('weights');
    expect(await readFile(await other.localPath(ref), 'utf8')).toBe('weights');
    // The second put finds it there.
    s3.log.length = 0;
    await other.put(Buffer.from('weights'), 'text/plain');
    expect(s3.log.some((line) => line.startsWith('PUT'))).toBe(false);
    const file = join(folder(), 'f');
    await writeFile(file, 'x'.repeat(2500));
    const large = await one.putFile(file, 'text/plain', { move: true });
    expect(await readFile(await (await open()).localPath(large), 'utf8')).toHaveLength(2500);
    await one.deleteBlob(ref);
    expect([await one.has(ref), await one.has(large)]).toEqual([false, true]);
    // Whoever has it in its cache still puts it back.
    await other.put(Buffer.from('weights'), 'text/plain');
    expect((await one.get(ref)).toString()).toBe('weights');
  });

  it('fetches again what its cache has lost or damaged, and removes what is damaged in the store', async () => {
    const root = folder();
    const store = await open(root);
    const ref = await store.put(Buffer.from('data'), 'text/plain');
    const cached = await store.localPath(ref);
    await writeFile(cached, 'DATA');
    expect((await store.get(ref)).toString()).toBe('data');
    await rm(await store.localPath(ref));
    expect(await readFile(await store.localPath(ref), 'utf8')).toBe('data');
    const [name = ''] = s3.objects.keys();
    s3.objects.set(name, Buffer.from('dead'));
    const other = await open(root);
    await rm(cached);
    await expect(other.get(ref)).rejects.toMatchObject({ code: 'DATA_LOSS' });
    expect(await other.has(ref)).toBe(false);
    const aside = [...s3.objects.keys()].filter((key) => key.includes('/damaged/'));
    expect(aside.map((key) => s3.objects.get(key)?.toString())).toEqual(['dead']);
    expect(await readdir(join(root, 'store/tmp'))).toEqual([]);
    await expect(other.get(ref)).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('s3://bucket/spindle') as string,
    });
    const empty = create(ArtifactRefSchema, { digest: `sha256:${hex('')}`, bytes: 0n });
    await expect(other.get(empty)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  it('leaves a whole object alone when the reference is damaged', async () => {
    const ref = await (await open()).put(Buffer.from('data'), 'text/plain');
    const before = new Map(s3.objects);
    const store = await open();
    expect((await store.get({ ...ref, bytes: 3n })).toString()).toBe('data');
    expect(s3.objects).toEqual(before);
  });

  it('looks twice before a damaged result is set aside', async () => {
    const store = await open();
    await store.commitResult('r1/encode/0000', '{"a":1}');
    const [name = ''] = s3.objects.keys();
    const text = s3.objects.get(name)?.toString() ?? '';
    s3.objects.set(name, Buffer.from(text.replace('"a":1', '"a":3')));
    expect(await store.getResult('r1/encode/0000')).toBeNull();
    expect([...s3.objects.keys()].every((key) => key.includes('/damaged/'))).toBe(true);
    expect(await store.commitResult('r1/encode/0000', '{"a":1}')).toBe('committed');
    expect(await store.getResult('r1/encode/0000')).toBe('{"a":1}');
  });

  it('lets the first writer of a result win, and lists and deletes below a prefix', async () => {
    const [one, two] = [await open(), await open()];
    expect(await one.commitResult('r1/encode/0000', '{"a":1}')).toBe('committed');
    expect(await two.commitResult('r1/encode/0000', '{"a":2}')).toBe('exists');
    expect(await two.getResult('r1/encode/0000')).toBe('{"a":1}');
    expect(await two.getResult('r1/encode/0001')).toBeNull();
    for (const key of [
      'r1/encode/0002',
      'r1/encode-x/0000',
      'r1/encode',
      'r2/encode/0000',
      'r1/encode/0001',
    ])
      await one.commitResult(key, '{}');
    expect(await two.listResults('r1/encode/')).toEqual([
      'r1/encode',
      'r1/encode/0000',
      'r1/encode/0001',
      'r1/encode/0002',
    ]);
    await two.deleteResults('r1/encode');
    expect(await one.listResults('r1')).toEqual(['r1/encode-x/0000']);
    await expect(one.getResult('../secret')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('deletes checkpoints here and in the object store, of the keys below a prefix alone', async () => {
    const store = await open();
    for (const key of ['r1/train-spin1', 'r10/train-spin1'])
      await store.checkpointMirror(key)?.write('step-00000001.json', Buffer.from('{}'));
    await store.deleteCheckpoints('r1');
    expect(await store.checkpointMirror('r1/train-spin1')?.list()).toEqual([]);
    expect(await store.checkpointMirror('r10/train-spin1')?.list()).toEqual(['step-00000001.json']);
  });

  it('wants an address', async () => {
    await expect(openStore(folder(), 'https://bucket/x')).rejects.toThrow(
      'expected s3://bucket/key, got "https://bucket/x"',
    );
  });
});
