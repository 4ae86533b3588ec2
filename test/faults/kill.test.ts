import { RunStatus } from '@spindle/proto';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { scenes, weightsOf } from '../harness/files.js';
import { Mesh } from '../harness/mesh.js';
import { reached, type Moment } from '../harness/progress.js';

/**
 * Each is killed at every one of its moments of one run, in this order, and started again at once.
 */
const victims: Record<string, Moment[]> = {
  sampler: [
    { results: 'encode', atLeast: 1 },
    { results: 'sample-base', atLeast: 2 },
    { results: 'eval-sample-spin1', atLeast: 1 },
  ],
  scorer: [
    { results: 'eval-sample-base', atLeast: 1 },
    { results: 'eval-sample-spin1', atLeast: 1 },
  ],
  trainer: [
    { checkpoint: 'train-sft', step: 1 },
    { checkpoint: 'train-spin1', step: 2 },
    { checkpoint: 'train-spin2', step: 3 },
  ],
  evaluator: [
    { results: 'eval-score-base', atLeast: 1 },
    { results: 'eval-score-spin1', atLeast: 1 },
  ],
  gateway: [
    { results: 'encode', atLeast: 1 },
    { checkpoint: 'train-spin1', step: 2 },
    { results: 'eval-score-spin1', atLeast: 1 },
  ],
  'nats-server': [
    { results: 'encode', atLeast: 1 },
    { results: 'sample-spin1', atLeast: 1 },
    { checkpoint: 'train-spin2', step: 1 },
  ],
};

describe('a process killed in the middle of a run', () => {
  let mesh: Mesh;
  let undisturbed: Record<string, string>;

  beforeAll(async () => {
    mesh = await Mesh.start();
    await mesh.create(tinyConfig(), 'calm');
    const run = await mesh.ended('calm');
    expect(run.reason).toBe('');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    undisturbed = weightsOf(mesh.runDirectory('calm'));
    expect(Object.keys(undisturbed)).toContain(
      'iterations/2/unet/diffusion_pytorch_model.safetensors',
    );
  });
  afterAll(() => mesh.stop());

  it('trainer and samplers beside each other, judged: the run goes on to the same weights', async () => {
    // Eight images in as many jobs; training begins with four.
    const { train, sampling, evaluation } = tinyConfig();
    const beside = {
      ...{ ...tinyConfig(), iterations: 1, baselines: {} },
      train: {
        ...{ ...train, steps: 8, batch_size: 1, gradient_accumulation: 1 },
        // Before and after the step at which its trainer is killed.
        ...{ judge_every: 3, judge_prompts: 2, keep: 'best' },
      },
      evaluation: {
        ...evaluation,
        select: { prompts: join(scenes, 'prompts-select.txt'), limit: 2 },
      },
      sampling: { ...sampling, shard_size: 1 },
      resources: { encode_shard_size: 8, shared_device: false },
    };
    const apart = { ...beside, resources: { ...beside.resources, shared_device: true } };
    await mesh.create(apart, 'apart');
    expect((await mesh.ended('apart')).reason).toBe('');
    await mesh.create(beside, 'beside');
    await reached(mesh.artifacts, 'beside', { results: 'sample-base', atLeast: 4 });
    await mesh.kill('sampler');
    // It takes the steps whose images are there, and waits.
    await reached(mesh.artifacts, 'beside', { checkpoint: 'train-spin1', step: 4 });
    const states = (await mesh.run('beside')).stages
      .filter(({ stage }) => stage === 'sample-base' || stage === 'train-spin1')
      .map(({ state }) => state);
    expect(states).toEqual(['running', 'running']);
    await mesh.crash('trainer');
    await mesh.revive('sampler');
    const run = await mesh.ended('beside');
    expect([run.reason, run.status, run.deadJobs]).toEqual(['', RunStatus.SUCCEEDED, []]);
    expect(weightsOf(mesh.runDirectory('beside'))).toEqual(weightsOf(mesh.runDirectory('apart')));
    const { judgedTrainings } = await mesh.run('apart');
    expect(judgedTrainings[0]?.steps.map(({ step, n }) => [step, n])).toEqual([
      [3, 2],
      [6, 2],
      [8, 2],
    ]);
    expect(run.judgedTrainings).toEqual(judgedTrainings);
  });

  for (const [victim, moments] of Object.entries(victims)) {
    it(`${victim}: the run goes on to the same weights, byte for byte`, async () => {
      const runId = `killed-${victim}`;
      await mesh.create(tinyConfig(), runId);
      for (const moment of moments) {
        await reached(mesh.artifacts, runId, moment);
        await mesh.crash(victim);
      }
      const run = await mesh.ended(runId);
      expect(run.reason).toBe('');
      expect(run.status).toBe(RunStatus.SUCCEEDED);
      expect(run.deadJobs).toEqual([]);
      expect(weightsOf(mesh.runDirectory(runId))).toEqual(undisturbed);
    });
  }
});
