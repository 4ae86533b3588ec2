import { createLogger, ObjectStore } from '@spindle/kit';
import { openStore } from '@spindle/mesh';
import { startTestS3, type TestS3 } from '@spindle/kit/testing';
import { mkdtempSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it, vi } from 'vitest';
import { CheckpointCopies } from './checkpoint-copies.js';
import { Checkpoints } from './checkpoints.js';

const facts = {
  precision: 'float32',
  precisionReason: 'as configured',
  fingerprint: { a: '1' },
} as const;
const logger = createLogger('test', { level: 'silent', pretty: false });
const key = 'r1/train-spin1';
let s3: TestS3;
let scratch: string;
beforeAll(async () => {
  s3 = await startTestS3();
});
afterAll(() => s3.close());
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'copies-'));
  for (const [name, value] of Object.entries(s3.environment)) vi.stubEnv(name, value);
  s3.objects.clear();
  s3.faults.length = 0;
  s3.faultsFor = () => true;
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(scratch, { recursive: true });
});

/** The trainer of a machine with a folder of its own. */
async function machine(name: string): Promise<Checkpoints> {
  const store = await openStore(
    join(scratch, name),
    's3://bucket/runs',
    new ObjectStore({ attempts: 1, firstWaitMs: 1 }),
  );
  const mirror = store.checkpointMirror(key);
  if (mirror === null) throw new Error('expected a mirror, got none');
  const directory = await store.checkpointDir(key);
  return new Checkpoints(directory, 2, logger, new CheckpointCopies(mirror, directory, logger));
}
const save = async (checkpoints: Checkpoints, ...steps: number[]): Promise<void> => {
  for (const step of steps)
    await checkpoints.save(step, facts, (path) => writeFile(path, `state ${step}`));
};
async function found(checkpoints: Checkpoints): Promise<number[]> {
  const steps: number[] = [];
  for await (const { manifest } of checkpoints.usable()) steps.push(manifest.step);
  return steps;
}
const copies = (): string[] =>
  [...s3.objects.keys()].map((name) => name.replace(`bucket/runs/checkpoints/${key}/`, '')).sort();

it('lets another machine go on from the newest checkpoint, and keeps no older copies', async () => {
  const first = await machine('a');
  await save(first, 5, 10);
  await first.settled();
  await save(first, 15);
  await first.settled();
  expect(copies()).toEqual(['step-00000015.json', 'step-00000015.safetensors']);
  const second = await machine('b');
  expect(await found(second)).toEqual([]);
  await second.fetch();
  expect(await found(second)).toEqual([15]);
  expect(await readFile(join(second.directory, 'step-00000015.safetensors'), 'utf8')).toBe(
    'state 15',
  );
  // What is newer here stays.
  await save(second, 20);
  await second.settled();
  await second.fetch();
  expect(await found(second)).toEqual([20, 15]);
  await first.fetch();
  expect(await found(first)).toEqual([20, 15, 10]);
  await second.remove();
  expect(copies()).toEqual([]);
});

it('costs no step when the store refuses, and tries again with the next checkpoint', async () => {
  const first = await machine('a');
  s3.faultsFor = ({ method }) => method === 'PUT';
  s3.faults.push(403);
  await save(first, 5);
  await first.settled();
  expect([copies(), await found(first)]).toEqual([[], [5]]);
  await save(first, 10);
  await first.settled();
  expect(copies()).toEqual(['step-00000010.json', 'step-00000010.safetensors']);
  // A resume that cannot ask does not begin anew instead.
  const second = await machine('b');
  s3.faultsFor = () => true;
  s3.faults.push(403);
  await expect(second.fetch()).rejects.toThrow('refuses access');
});

it('passes over copies that are damaged or incomplete, once', async () => {
  const first = await machine('a');
  await save(first, 5);
  await first.settled();
  const data = `bucket/runs/checkpoints/${key}/step-00000005.safetensors`;
  s3.objects.set(data, Buffer.from('state 6'));
  const second = await machine('b');
  await second.fetch();
  expect(await found(second)).toEqual([]);
  expect(copies()).toEqual([]);
  // Data without a manifest: the upload was cut.
  s3.objects.set(data, Buffer.from('state 5'));
  await second.fetch();
  expect(await found(second)).toEqual([]);
  expect((await readdir(second.directory)).filter((name) => !name.endsWith('.damaged'))).toEqual(
    [],
  );
});

it('goes back with a rollback: what is wrong does not come back from the store, and the cut is known elsewhere', async () => {
  const first = await machine('a');
  await save(first, 5, 10);
  await first.settled();
  await first.noteRollbacks({ count: 1, learningRateScale: 0.5 });
  await first.dropFrom(10);
  await first.settled();
  expect(copies()).toEqual(['rollbacks.json', 'step-00000005.json', 'step-00000005.safetensors']);
  await first.fetch();
  expect(await found(first)).toEqual([5]);
  const second = await machine('b');
  await second.fetch();
  expect(await second.rollbacks()).toEqual({ count: 1, learningRateScale: 0.5 });
  expect(await found(second)).toEqual([5]);
});
