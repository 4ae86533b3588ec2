import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { lockFolder } from '../../orchestrator/folder-lock.js';
import { startMesh } from './mesh.js';

it('that is interrupted while it starts stops what it started and lets go of the folder', async () => {
  const artifacts = mkdtempSync(join(tmpdir(), 'spindle-up-'));
  const interrupt = new AbortController();
  const options = {
    artifacts,
    samplers: 1,
    scorers: 1,
    threads: 1,
    ranks: 1,
    grpcPort: 0,
    httpPort: 0,
    logLevel: 'error',
    environment: process.env,
  };
  const start = startMesh({
    ...options,
    signal: interrupt.signal,
    onLine: () => undefined,
    onNotice: () => undefined,
  });
  interrupt.abort();
  await expect(start).rejects.toMatchObject({ code: 'CANCELLED' });
  await (await lockFolder(artifacts, 'mesh')).release();
  expect(existsSync(join(artifacts, 'runtime.json'))).toBe(false);
  rmSync(artifacts, { recursive: true });
});
