import { createLogger, sealed, unsealed } from '@spindle/kit';
import { everyBitFlip } from '@spindle/kit/testing';
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { temporaryName } from './checkpoint-names.js';
import { Checkpoints, parseManifest, type Checkpoint } from './checkpoints.js';

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
  // Left by killed processes: of this machine, while the engine wrote, and of another, long ago.
  const here = temporaryName(1).replace(`.${process.pid}.`, '.999999999.');
  for (const name of [here, `${here}.partial-999999999`, '.step-00000001.1.abcd.tmp'])
    await writeFile(join(directory, name), 'half');
  await utimes(join(directory, '.step-00000001.1.abcd.tmp'), 0, 0);
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

it('leaves alone what another trainer on the folder writes at this moment', async () => {
  const checkpoints = make();
  const other = '.step-00000002.other-host.17.abcd.tmp.partial-17';
  await writeFile(join(directory, other), 'half');
  await save(checkpoints, 5);
  expect(await readdir(directory)).toContain(other);
});

it('puts nothing in place, and prunes nothing, once another has taken over in the middle of a save', async () => {
  const successor = make();
  for (const step of [5, 10]) await save(successor, step);
  const before = (await readdir(directory)).sort();
  // Stopped before the rename, before the manifest, and before pruning.
  for (const asked of [0, 1, 2]) {
    const late = make();
    let times = 0;
    late.mayWrite = () => times++ < asked;
    await expect(save(late, 1)).rejects.toMatchObject({ code: 'ABORTED' });
    if (asked < 2) expect(await steps(make())).toEqual([10, 5]);
    for (const name of ['step-00000001.json', 'step-00000001.safetensors'])
      await rm(join(directory, name), { force: true });
    expect((await readdir(directory)).sort()).toEqual(before);
  }
});

it('sees that another trainer has been in its folder', async () => {
  const [own, other] = [make(), make()];
  await own.fetch();
  await save(own, 5);
  expect(await own.isUntouched()).toBe(true);
  await other.noteRollbacks({ count: 1, learningRateScale: 0.5 });
  expect(await own.isUntouched()).toBe(false);
  await own.fetch();
  const writing = join(directory, '.step-00000006.other-host.17.abcd.tmp');
  await writeFile(writing, 'half');
  expect(await own.isUntouched()).toBe(false);
  await rm(writing);
  expect(await own.isUntouched()).toBe(true);
  await save(other, 10);
  expect(await own.isUntouched()).toBe(false);
  await rm(directory, { recursive: true });
  expect(await own.isUntouched()).toBe(false);
  await mkdir(directory);
});

it('uses no manifest with a flipped bit', async () => {
  const checkpoints = make();
  await save(checkpoints, 5);
  await save(checkpoints, 10);
  const manifest = join(directory, 'step-00000010.json');
  const text = await readFile(manifest, 'utf8');
  for (const damaged of everyBitFlip(text))
    expect(() => parseManifest(damaged, 10, manifest)).toThrow();
  await writeFile(manifest, text.replace('"fingerprint"', '"fingerprinu"'));
  expect(await steps(checkpoints)).toEqual([5]);
});

it('reads manifests as older versions wrote them, but of no other step than their name says', async () => {
  const checkpoints = make();
  await save(checkpoints, 5);
  await save(checkpoints, 10);
  const manifest = join(directory, 'step-00000010.json');
  const text = unsealed(await readFile(manifest, 'utf8'), manifest);
  await writeFile(manifest, text);
  expect(await steps(checkpoints)).toEqual([10, 5]);
  await writeFile(manifest, text.replace('"step": 10', '"step": 11'));
  expect(await steps(checkpoints)).toEqual([5]);
});

it('starts over when it is not known how often training went back', async () => {
  const text = sealed(JSON.stringify({ count: 2, learningRateScale: 0.25 }));
  const file = join(directory, 'rollbacks.json');
  const checkpoints = make();
  await save(checkpoints, 5);
  await writeFile(file, text.replace('0.25', '0.35'));
  expect(await steps(checkpoints)).toEqual([]);
  expect(await checkpoints.rollbacks()).toEqual({ count: 0, learningRateScale: 1 });
  await writeFile(file, unsealed(text, ''));
  expect(await checkpoints.rollbacks()).toEqual({ count: 2, learningRateScale: 0.25 });
});
