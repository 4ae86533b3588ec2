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

it('goes back at half the learning rate as often as it may, says so everywhere, and ends when that does not help', async () => {
  const { baselines: _none, evaluation: _no, train, ...config } = tinyConfig();
  // Every weight moves by the learning rate at the first step: no pair has a slope left at the
  // second one, or a number at all.
  const diverging = { ...train, learning_rate: 1, warmup_steps: 0, checkpoint_steps: 1 };
  const run = {
    ...config,
    objective: { beta: 1e6 },
    train: { ...diverging, on_divergence: 'rollback', max_rollbacks: 2 },
  };
  await mesh.create(run, 'rolled-back');
  const ended = await mesh.ended('rolled-back');
  expect(ended.status).toBe(RunStatus.FAILED);
  expect(ended.reason).toMatch(/train-spin1.*diverged at step \d, after 2 rollbacks/);
  const back = ended.warnings.filter((warning) =>
    /^train-spin1: (starts over|goes back to step \d) at 0\.(5|25) times the learning rate/.test(
      warning,
    ),
  );
  expect(back).toHaveLength(2);
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
