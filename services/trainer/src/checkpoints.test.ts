import { createLogger } from '@spindle/kit';
import { mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Checkpoints, type Checkpoint } from './checkpoints.js';

const facts = {
  precision: 'float32',
  precisionReason: 'as configured',
  fingerprint: { a: '1' },
} as const;
const logger = createLogger('test', { level: 'silent', pretty: false });
let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'checkpoints-'));
});
afterEach(() => rm(directory, { recursive: true }));

const make = (): Checkpoints => new Checkpoints(directory, 2, logger);
const save = (checkpoints: Checkpoints, step: number): Promise<Checkpoint> =>
  checkpoints.save(step, facts, (path) => writeFile(path, `state ${step}`));

async function steps(checkpoints: Checkpoints): Promise<number[]> {
  const found: number[] = [];
  for await (const { manifest } of checkpoints.usable()) found.push(manifest.step);
  return found;
}

it('keeps the newest two and no temporary files', async () => {
  const checkpoints = make();
  await writeFile(join(directory, '.step-00000001.999999999.abcd.tmp'), 'left by a killed process');
  for (const step of [5, 10, 15]) await save(checkpoints, step);
  expect(await steps(checkpoints)).toEqual([15, 10]);
  expect((await readdir(directory)).sort()).toEqual([
    'step-00000010.json',
    'step-00000010.safetensors',
    'step-00000015.json',
    'step-00000015.safetensors',
  ]);
});

it('falls back to the older one when the newest is truncated, and sets it aside', async () => {
  const checkpoints = make();
  await save(checkpoints, 5);
  await truncate((await save(checkpoints, 10)).path, 3);
  expect(await steps(checkpoints)).toEqual([5]);
  expect(await readdir(directory)).toContain('step-00000010.safetensors.damaged');
});

it('falls back when a single bit is wrong, when the manifest is torn and when the file is missing', async () => {
  const checkpoints = make();
  await save(checkpoints, 5);
  await writeFile((await save(checkpoints, 10)).path, 'state 11');
  expect(await steps(checkpoints)).toEqual([5]);
  await save(checkpoints, 10);
  await writeFile(join(directory, 'step-00000010.json'), '{"schemaVersion":1,"st');
  expect(await steps(checkpoints)).toEqual([5]);
  await rm((await save(checkpoints, 10)).path);
  expect(await steps(checkpoints)).toEqual([5]);
});

it('says that the disk is full and leaves the older ones alone', async () => {
  const checkpoints = make();
  await save(checkpoints, 5);
  const full = checkpoints.save(10, facts, async (path) => {
    await writeFile(path, 'half');
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  });
  await expect(full).rejects.toMatchObject({
    code: 'RESOURCE_EXHAUSTED',
    message: expect.stringContaining(
      'checkpoint of step 10 could not be written: the disk is full',
    ) as string,
  });
  expect((await readdir(directory)).sort()).toEqual([
    'step-00000005.json',
    'step-00000005.safetensors',
  ]);
});

it('does not take a checkpoint without a manifest for one', async () => {
  const checkpoints = make();
  await save(checkpoints, 5);
  await writeFile(join(directory, 'step-00000010.safetensors'), 'killed before the manifest');
  expect(await steps(checkpoints)).toEqual([5]);
});
