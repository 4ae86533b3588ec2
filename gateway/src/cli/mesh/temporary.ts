/** A mesh for one question: what a dry run checks, it checks with the services themselves. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Environment } from '../context.js';
import { startMesh } from './mesh.js';

/**
 * Starts all services in a folder of their own beside `artifacts`, on the disk that counts for a
 * run, and ends them again when `use` is done.
 */
export async function withTemporaryMesh<T>(
  artifacts: string,
  environment: Environment,
  use: (environment: Environment) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, onSignal);
  const folder = await mkdtemp(join(nearestFolder(dirname(artifacts)), '.spindle-dry-run-'));
  try {
    const mesh = await startMesh({
      artifacts: folder,
      ...{ samplers: 1, scorers: 1, threads: 0, ranks: 1 },
      ...{ grpcPort: 0, httpPort: 0, logLevel: 'warn' },
      environment: environment.all,
      signal: stop.signal,
      onLine: () => undefined,
      onNotice: () => undefined,
    });
    try {
      const { gateway, token } = mesh.runtime;
      return await use({ ...environment, gateway, token, artifacts: folder });
    } finally {
      await mesh.stop();
    }
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal);
    await rm(folder, { recursive: true, force: true });
  }
}

function nearestFolder(path: string): string {
  return existsSync(path) || path === dirname(path) ? path : nearestFolder(dirname(path));
}
