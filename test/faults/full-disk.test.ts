import { RunStatus } from '@spindle/proto';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { weightsOf } from '../harness/files.js';
import { Mesh } from '../harness/mesh.js';
import { reached } from '../harness/progress.js';
import { topUp } from '../harness/top-up.js';
import { until } from '../harness/wait.js';

/** A file system of its own that can be filled without harm; only root may mount one. */
function mountSmall(folder: string, size: string): boolean {
  return (
    spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder], { stdio: 'ignore' })
      .status === 0
  );
}

// Training only, with a checkpoint at every step: it needs room again and again.
const tiny = tinyConfig();
const config = {
  ...tiny,
  iterations: 1,
  baselines: {},
  evaluation: undefined,
  train: { ...tiny.train, steps: 16 },
};
const folder = await mkdtemp(join(tmpdir(), 'spindle-full-'));
/** A busy machine takes its time. */
const endMs = 600_000;
const mounted = mountSmall(folder, '320m');

describe.runIf(mounted)('a full disk', () => {
  afterAll(async () => {
    spawnSync('umount', ['-l', folder]);
    await rm(folder, { recursive: true, force: true });
  });

  it('pauses the run with a reason; with space again it resumes to the same weights', async () => {
    const mesh = await Mesh.start({ artifacts: folder });
    try {
      await mesh.create(config, 'roomy');
      expect(await mesh.ended('roomy', endMs)).toMatchObject({
        reason: '',
        status: RunStatus.SUCCEEDED,
      });

      await mesh.create(config, 'cramped');
      await reached(mesh.artifacts, 'cramped', { checkpoint: 'train-spin1', step: 1 });
      const ballast = join(folder, 'ballast');
      const stopped = await until('the pause', async () => {
        topUp(ballast);
        const run = await mesh.run('cramped');
        return run.status === RunStatus.RUNNING ? undefined : run;
      });
      expect(stopped.status).toBe(RunStatus.PAUSED);
      expect(stopped.reason).toMatch(/the disk is full|no space/i);
      await rm(ballast);
      await mesh.client.resumeRun({ runId: 'cramped' });
      expect(await mesh.ended('cramped', endMs)).toMatchObject({
        reason: '',
        status: RunStatus.SUCCEEDED,
      });
      expect(weightsOf(mesh.runDirectory('cramped'))).toEqual(
        weightsOf(mesh.runDirectory('roomy')),
      );
    } finally {
      await mesh.stop();
    }
  });
});
