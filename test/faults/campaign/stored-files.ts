/** Every class of file that a run leaves, and how one of them is damaged. */
import { existsSync } from 'node:fs';
import { chmod, open, readdir, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Random } from './random.js';

export const fileClasses = [
  'result',
  'image',
  'shard',
  'weights',
  'unet-config',
  'texts',
  'checkpoint',
  'checkpoint-manifest',
  'run.json',
  'metrics.jsonl',
  'encode-cache',
] as const;
export type FileClass = (typeof fileClasses)[number];

export const injuries = ['bit', 'zeroes', 'cut', 'gone'] as const;
export type Injury = (typeof injuries)[number];

/** Weights are larger than any shard of the tiny run. */
const weightsBytes = 1 << 20;
const blockBytes = 512;

/** Files of a class that are there now; blobs may be any run's, since runs share them. */
export async function filesOf(kind: FileClass, artifacts: string, runId: string) {
  const store = join(artifacts, 'store');
  switch (kind) {
    case 'result':
      return below(join(store, 'results', runId), /\.json$/);
    case 'encode-cache':
      return below(join(store, 'results/cache'), /\.json$/);
    case 'checkpoint':
      return below(join(store, 'checkpoints', runId), /step-\d+\.safetensors$/);
    case 'checkpoint-manifest':
      return below(join(store, 'checkpoints', runId), /step-\d+\.json$/);
    case 'run.json':
    case 'metrics.jsonl':
      return [join(artifacts, runId, kind)].filter((file) => existsSync(file));
    case 'image':
    case 'shard':
    case 'weights':
    case 'unet-config':
    case 'texts': {
      const blobs = await below(join(store, 'sha256'), /[0-9a-f]{64}$/);
      const kinds = await Promise.all(blobs.map(blobClass));
      return blobs.filter((_, at) => kinds[at] === kind);
    }
  }
}

async function below(folder: string, name: RegExp): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((file) => name.test(file))
    .sort();
}

async function blobClass(file: string): Promise<FileClass | undefined> {
  const handle = await open(file).catch(() => null);
  if (handle === null) return undefined;
  try {
    const head = Buffer.alloc(64);
    await handle.read(head, 0, head.length, 0);
    if (head.toString('latin1', 1, 4) === 'PNG') return 'image';
    if (head[8] === '{'.charCodeAt(0) && head[0] !== '{'.charCodeAt(0))
      return (await handle.stat()).size > weightsBytes ? 'weights' : 'shard';
    const isObject = head.toString('latin1').trimStart().startsWith('{');
    return isObject && head.includes('"_class_name"') ? 'unet-config' : 'texts';
  } finally {
    await handle.close();
  }
}

/** Damages a file in place. Returns what was done; undefined where it has gone meanwhile. */
export async function injure(
  file: string,
  injury: Injury,
  random: Random,
): Promise<string | undefined> {
  try {
    const { size } = await stat(file);
    if (size === 0) return undefined;
    const at = random.int(0, size - 1);
    const bit = random.int(0, 7);
    await chmod(file, 0o644);
    return await damage(file, { injury, at, bit, size });
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

async function damage(
  file: string,
  { injury, at, bit, size }: { injury: Injury; at: number; bit: number; size: number },
): Promise<string> {
  switch (injury) {
    case 'bit': {
      await rewrite(file, at, 1, (bytes) => (bytes[0] = (bytes[0] ?? 0) ^ (1 << bit)));
      return `bit ${bit} of byte ${at} of ${size} turned`;
    }
    case 'zeroes': {
      const start = at - (at % blockBytes);
      await rewrite(file, start, Math.min(blockBytes, size - start), (bytes) => bytes.fill(0));
      return `bytes from ${start} on are zero`;
    }
    case 'cut':
      await truncate(file, at);
      return `cut to ${at} of ${size} bytes`;
    case 'gone':
      await rm(file);
      return 'removed';
  }
}

async function rewrite(
  file: string,
  at: number,
  length: number,
  change: (bytes: Buffer) => void,
): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    const bytes = Buffer.alloc(length);
    await handle.read(bytes, 0, length, at);
    change(bytes);
    await handle.write(bytes, 0, length, at);
    await handle.sync();
  } finally {
    await handle.close();
  }
}
