import { RunStatus } from '@spindle/proto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { weightsOf } from '../harness/files.js';
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
