import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  fsync,
  linkSync,
  openSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const syncFile = promisify(fsync);

/** Whether an error is the operating system's of this code, such as ENOENT. */
export function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

/** Syncs of folders that are under way, and those that wait for them, by path. */
const running = new Map<string, Promise<void>>();
const waiting = new Map<string, Promise<void>>();

/**
 * Makes a rename or a new name in a folder survive a power failure. Calls during a sync share the
 * next one: it begins after all of them, so it holds all of their names.
 */
export function syncDirectory(path: string): Promise<void> {
  const shared = waiting.get(path);
  if (shared) return shared;
  const before = running.get(path);
  if (!before) return beginSync(path);
  const next = before
    .catch(() => undefined)
    .then(() => {
      waiting.delete(path);
      return beginSync(path);
    });
  waiting.set(path, next);
  return next;
}

function beginSync(path: string): Promise<void> {
  const sync = syncNow(path).finally(() => running.delete(path));
  running.set(path, sync);
  return sync;
}

async function syncNow(path: string): Promise<void> {
  const file = openSync(path, 'r');
  try {
    await syncFile(file);
  } finally {
    closeSync(file);
  }
}

/** mkdir -p whose new folders survive a power failure. */
export async function makeDirectory(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true });
  if (first === undefined) return;
  for (let folder = path; ; folder = dirname(folder)) {
    await syncDirectory(dirname(folder));
    if (folder === first || folder === dirname(folder)) return;
  }
}

/**
 * A fresh name in `folder`, with the process id, so that what a killed process left can be told
 * from work under way.
 */
export function temporaryName(folder: string): string {
  return join(folder, `.${process.pid}.${randomBytes(8).toString('hex')}.tmp`);
}

const temporaryFile = /^\.(?<pid>\d+)\./;
const staleMs = 3_600_000;

/**
 * Removes what processes that were killed left in a folder; what a living process or the last hour
 * wrote stays. `depth: 'all'` looks into the folders below too.
 */
export async function sweepTemporaries(
  folder: string,
  { depth }: { depth: 'one' | 'all' },
): Promise<void> {
  const options = { recursive: depth === 'all', withFileTypes: true } as const;
  for (const entry of await readdir(folder, options)) {
    const pid = Number(temporaryFile.exec(entry.name)?.groups?.['pid']);
    if (depth === 'all' && Number.isNaN(pid)) continue;
    const path = join(entry.parentPath, entry.name);
    try {
      if (Date.now() - (await stat(path)).mtimeMs < staleMs || isAlive(pid)) continue;
      await rm(path, { recursive: true, force: true });
    } catch (error) {
      if (!isCode(error, 'ENOENT')) throw error;
    }
  }
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid)) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isCode(error, 'EPERM');
  }
}

/** Durable bytes under a temporary name, ready to be renamed or linked. */
export async function writeTemporary(
  folder: string,
  data: Uint8Array | string,
  mode?: number,
): Promise<string> {
  const temporary = temporaryName(folder);
  const handle = await open(temporary, 'wx', mode);
  try {
    await handle.writeFile(data);
    await handle.sync();
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
  return temporary;
}

/** After a crash at any point the file holds the old bytes or the new ones, never a mix. */
export async function writeFileAtomic(
  path: string,
  data: Uint8Array | string,
  options: { mode?: number } = {},
): Promise<void> {
  await makeDirectory(dirname(path));
  const temporary = await writeTemporary(dirname(path), data, options.mode);
  try {
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}

/**
 * As writeFileAtomic, but an existing file stays as it is; false says that there was one.
 * `temporaryFolder` lies on the same file system. For small files: only the syncs are left to other
 * threads, since handing the short calls over costs several times what they do.
 */
export async function createFileAtomic(
  path: string,
  data: Uint8Array | string,
  temporaryFolder: string,
): Promise<boolean> {
  const temporary = await writeSmallTemporary(temporaryFolder, data);
  // Unlike rename, link refuses to replace: of two writers exactly one succeeds.
  const place = (): void => linkSync(temporary, path);
  let created = true;
  try {
    try {
      place();
    } catch (error) {
      if (!isCode(error, 'ENOENT')) throw error;
      await makeDirectory(dirname(path));
      place();
    }
  } catch (error) {
    if (!isCode(error, 'EEXIST')) throw error;
    created = false;
  } finally {
    removeIfThere(temporary);
  }
  // Also where the file is another writer's: that one may not have reached its own fsync yet, and
  // the caller is about to rely on the file.
  await syncDirectory(dirname(path));
  return created;
}

async function writeSmallTemporary(folder: string, data: Uint8Array | string): Promise<string> {
  const temporary = temporaryName(folder);
  const file = openSync(temporary, 'wx');
  try {
    writeFileSync(file, data);
    await syncFile(file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
  return temporary;
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (!isCode(error, 'ENOENT')) throw error;
  }
}

/** SHA-256 of a file's bytes, in hex; reads it piece by piece. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
    hash.update(chunk as Buffer);
  return hash.digest('hex');
}
