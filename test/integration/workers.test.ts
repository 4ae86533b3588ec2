import { RunStatus } from '@spindle/proto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { weightsOf } from '../harness/files.js';
import { Mesh } from '../harness/mesh.js';
import { reached } from '../harness/progress.js';

describe('workers that come and go', () => {
  let mesh: Mesh;
  beforeAll(async () => {
    mesh = await Mesh.start();
  });
  afterAll(() => mesh.stop());

  it('share the work of a run, and leave without a trace in its weights', async () => {
    const config = tinyConfig();
    await mesh.create(config, 'alone');
    expect((await mesh.ended('alone')).status).toBe(RunStatus.SUCCEEDED);

    await mesh.join('sampler', 'sampler-2');
    await mesh.join('scorer', 'scorer-2');
    await mesh.create({ ...config, sampling: { ...config.sampling, shard_size: 1 } }, 'shared');
    await reached(mesh.artifacts, 'shared', { results: 'sample-spin1', atLeast: 3 });
    // A worker that is asked to leave hands back what it has in hand, and ends well.
    expect(await mesh.leave('sampler-2')).toBe(0);
    await mesh.join('sampler', 'sampler-3');
    await reached(mesh.artifacts, 'shared', { results: 'eval-sample-spin1', atLeast: 1 });
    expect(await mesh.leave('scorer-2')).toBe(0);
    const run = await mesh.ended('shared');
    expect(run.reason).toBe('');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    expect(run.deadJobs).toEqual([]);
    // Other shards, other workers, other order: the same images, hence the same weights.
    expect(weightsOf(mesh.runDirectory('shared'))).toEqual(weightsOf(mesh.runDirectory('alone')));
  });
});
