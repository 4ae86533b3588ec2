import { RunStatus } from '@spindle/proto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { copyModel, fillWithInfinity, unetWeights } from '../harness/broken.js';
import { tinyConfig } from '../harness/config.js';
import { Mesh } from '../harness/mesh.js';

let mesh: Mesh;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spindle-diverged-'));
  mesh = await Mesh.start();
});
afterAll(async () => {
  await mesh.stop();
  await rm(folder, { recursive: true, force: true });
});

it('a loss that is no number ends the run with the step, and leaves the mesh fit for the next one', async () => {
  const model = await copyModel(folder);
  await fillWithInfinity(unetWeights(model), 'conv_out.bias');
  await mesh.create({ ...tinyConfig(), model }, 'diverged');
  const run = await mesh.ended('diverged');
  expect(run.status).toBe(RunStatus.FAILED);
  expect(run.reason).toMatch(/train-sft.*step 1\b/);
  await mesh.create(tinyConfig(), 'after');
  expect((await mesh.ended('after')).status).toBe(RunStatus.SUCCEEDED);
});
