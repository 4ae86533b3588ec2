import { RunStatus } from '@spindle/proto';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { weightsOf } from '../harness/files.js';
import { Mesh } from '../harness/mesh.js';
import { reached } from '../harness/progress.js';

/** A file system of its own that can be filled without harm; only root may mount one. */
function mountSmall(folder: string, size: string): boolean {
  return spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder], { stdio: 'ignore' }).status === 0;
}

const folder = await mkdtemp(join(tmpdir(), 'spindle-full-'));
const mounted = mountSmall(folder, '1g');

describe.runIf(mounted)('a full disk', () => {
  afterAll(async () => {
    spawnSync('umount', ['-l', folder]);
    await rm(folder, { recursive: true, force: true });
  });

  it('stops nothing for good: with space again the run ends with the same weights', async () => {
    const mesh = await Mesh.start({ artifacts: folder });
    try {
      await mesh.create(tinyConfig(), 'roomy');
      expect((await mesh.ended('roomy')).status).toBe(RunStatus.SUCCEEDED);

      await mesh.create(tinyConfig(), 'cramped');
      await reached(mesh.artifacts, 'cramped', { checkpoint: 'train-spin1', step: 1 });
      const ballast = join(folder, 'ballast');
      spawnSync('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=1M'], { stdio: 'ignore' });
      await writeFile(join(folder, 'probe'), Buffer.alloc(1 << 16)).then(
        () => expect.unreachable('the disk is not full'),
        (error: NodeJS.ErrnoException) => expect(error.code).toBe('ENOSPC'),
      );
      // Whatever it says while the disk is full, a run that is over has failed with a reason that names the disk.
      const paused = await mesh.ended('cramped', 15_000).catch(() => undefined);
      if (paused) expect(paused.reason).toMatch(/disk|space/i);
      await rm(ballast);
      if (paused) await mesh.client.resumeRun({ runId: 'cramped' });
      expect((await mesh.ended('cramped')).status).toBe(RunStatus.SUCCEEDED);
      expect(weightsOf(mesh.runDirectory('cramped'))).toEqual(weightsOf(mesh.runDirectory('roomy')));
    } finally {
      await mesh.stop();
    }
  });
});
