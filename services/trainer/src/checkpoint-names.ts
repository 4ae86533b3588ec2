/** Names of a checkpoint's two files: its data, and the manifest that makes it one. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { isCode } from '@spindle/kit';

const fileName = /^step-(\d{8})\.(json|safetensors)$/;

export function stem(step: number): string {
  return `step-${String(step).padStart(8, '0')}`;
}

/** Step and kind of a checkpoint's file; null for any other. */
export function parseName(name: string): { step: number; isManifest: boolean } | null {
  const [, digits, extension] = fileName.exec(name) ?? [];
  return digits === undefined ? null : { step: Number(digits), isManifest: extension === 'json' };
}

/** Steps of the manifests among these files. */
export function manifestSteps(names: readonly string[]): number[] {
  return names.flatMap((name) => {
    const file = parseName(name);
    return file?.isManifest === true ? [file.step] : [];
  });
}

const host = hostname().replace(/[^A-Za-z0-9-]/g, '-');
/** The engine adds an ending of its own while it writes. */
const temporary = /^\.step-\d{8}\.(?<host>[A-Za-z0-9-]+)\.(?<pid>\d+)\.[0-9a-f]+\.tmp/;
const staleMs = 3_600_000;

/** A fresh name, which says whose it is. */
export function temporaryName(step: number): string {
  return `.${stem(step)}.${host}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
}

/**
 * Whether nobody writes this file any more: its process has ended, or it has not changed for an
 * hour. Another trainer may be at work in the same folder, on this machine or on another one.
 */
export function isLeftBehind(name: string, changedMs: number): boolean {
  if (!name.startsWith('.') || !name.includes('.tmp')) return false;
  const owner = temporary.exec(name)?.groups;
  if (owner?.['host'] === host && !isAlive(Number(owner['pid']))) return true;
  return Date.now() - changedMs > staleMs;
}

/** Whether another process that may live is about to put a checkpoint in place. */
export function isAnothersTemporary(name: string): boolean {
  const owner = temporary.exec(name)?.groups;
  if (owner === undefined) return false;
  const pid = Number(owner['pid']);
  return owner['host'] !== host || (pid !== process.pid && isAlive(pid));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isCode(error, 'EPERM');
  }
}
