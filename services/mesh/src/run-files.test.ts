import { mkdtempSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { checkRunFiles, unchanged } from './run-files.js';
import { openLocalStore } from './store/local.js';
import type { ArtifactStore } from './store/store.js';

let root: string;
let store: ArtifactStore;
let weights: string;
let config: string;
beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'spindle-run-files-'));
  store = await openLocalStore(join(root, 'artifacts'));
  [weights, config] = [join(root, 'w.safetensors'), join(root, 'config.json')];
  writeFileSync(weights, 'weights');
  writeFileSync(config, '{}');
});
afterEach(() => rmSync(root, { recursive: true }));

const check = (runId = 'r1', files = [config, weights]) =>
  checkRunFiles(store, runId, 'unet /m/unet', files);

it('lets a run go on with the files that it began with, whatever their times', async () => {
  const before = await check();
  expect(await check()).toBe(before);
  utimesSync(weights, new Date(1_000), new Date(1_000));
  expect(await check()).not.toBe(before);
  writeFileSync(weights, 'weights');
  await check();
});

it('names the file that has changed, what was expected, and the way on', async () => {
  await check();
  const { mtime } = statSync(weights);
  writeFileSync(weights, 'WEIGHTS');
  // As a copy that keeps times would have it.
  utimesSync(weights, mtime, mtime);
  await expect(check()).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringMatching(
      /w\.safetensors: changed since this run first read it \(unet \/m\/unet\): expected sha256:\S{64}, got sha256:\S{64}; put the file back/,
    ) as string,
  });
  // Another run begins with what is there now.
  await check('r2');
  writeFileSync(weights, 'weights');
  await check();
});

it('names a file that is gone, and one that is new', async () => {
  await check();
  await expect(check('r1', [config])).rejects.toThrow('w.safetensors: changed since');
  rmSync(weights);
  await expect(check()).rejects.toThrow('got no such file');
  writeFileSync(weights, 'weights');
  const added = join(root, 'added_tokens.json');
  writeFileSync(added, '{}');
  await expect(check('r1', [config, weights, added])).rejects.toThrow(
    'added_tokens.json: changed since this run first read it (unet /m/unet): expected no such file',
  );
});

it('compares nothing without a run, and notes nothing where nothing is', async () => {
  await check('');
  writeFileSync(weights, 'others');
  await check('');
  await check('r1', []);
  await check('r1');
});

it('lets the first of several note the files, and makes a damaged note anew', async () => {
  await Promise.all(Array.from({ length: 8 }, () => check()));
  const [key = ''] = await store.listResults('r1');
  writeFileSync(join(root, 'artifacts/store/results', `${key}.json`), '{"files":');
  await check();
  writeFileSync(weights, 'others');
  await expect(check()).rejects.toThrow('changed since');
});

it('does not keep what was loaded while its files changed', async () => {
  const state = await check();
  let released = 0;
  const load = (text: string) => () => {
    writeFileSync(weights, text);
    return Promise.resolve({ release: () => (released += 1) });
  };
  await expect(unchanged([config, weights], state, load('longer weights'))).rejects.toMatchObject({
    code: 'ABORTED',
  });
  expect(released).toBe(1);
});
