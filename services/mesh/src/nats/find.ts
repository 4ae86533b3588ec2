import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/**
 * A nats-server on this machine: `folders` first (a project's own download), then PATH, then where
 * systems put it.
 */
export function findNatsServer(
  folders: readonly string[] = [],
): { path: string; version: string } | null {
  const places = [
    ...folders,
    ...(process.env['PATH'] ?? '').split(delimiter),
    '/usr/local/sbin',
    '/usr/sbin',
    '/usr/local/bin',
  ];
  for (const folder of new Set(places.filter((place) => place !== ''))) {
    const path = join(folder, 'nats-server');
    const version = versionOf(path);
    if (version !== null) return { path, version };
  }
  return null;
}

/** Null when the file is not there, not executable or not a nats-server. */
export function versionOf(path: string): string | null {
  try {
    accessSync(path, constants.X_OK);
  } catch {
    return null;
  }
  const { stdout } = spawnSync(path, ['--version'], { encoding: 'utf8', timeout: 5_000 });
  return /nats-server: v?(\d+\.\d+\.\d+\S*)/.exec(stdout)?.[1] ?? null;
}
