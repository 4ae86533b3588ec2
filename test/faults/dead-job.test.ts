import { createClient } from '@spindle/kit';
import { RunStatus, SamplerService } from '@spindle/proto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { Mesh } from '../harness/mesh.js';
import { until } from '../harness/wait.js';

describe('a job that takes its worker down', () => {
  let mesh: Mesh;
  beforeAll(async () => {
    mesh = await Mesh.start();
  });
  afterAll(() => mesh.stop());

  it('is given up after three crashes and named in the status, and the rest of the run goes on', async () => {
    const runId = 'poison';
    const key = `${runId}/eval-sample-base/0000`;
    const config = tinyConfig();
    // Slow enough to be caught in the act, and allowed to lose that one shard of two.
    const evaluation = { ...config.evaluation, sampling: { steps: 60 } };
    await mesh.create({ ...config, iterations: 1, evaluation, max_missing: 0.6 }, runId);
    for (let crash = 1; crash <= 3; crash++) {
      const client = createClient(SamplerService, mesh.address('sampler'), mesh.token);
      try {
        await until(
          `delivery ${crash} of ${key}`,
          async () => (await client.getWorker({})).jobKey === key || undefined,
          120_000,
        );
      } finally {
        client.close();
      }
      await mesh.crash('sampler');
    }
    const run = await mesh.ended(runId);
    expect(run.deadJobs).toHaveLength(1);
    expect(run.deadJobs[0]).toMatchObject({ key, attempts: 3 });
    expect(run.deadJobs[0]?.reason).toMatch(/crashed the worker 3 times/);
    expect(run.reason).toBe('');
    expect(run.status).toBe(RunStatus.SUCCEEDED);

    const status = await mesh.spindle('status', runId);
    expect(status.stdout).toContain(key);
    expect(status.stdout).toContain('crashed the worker 3 times');
  });
});
