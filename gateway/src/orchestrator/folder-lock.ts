/** One live owner per artifacts folder: one gateway, and one `spindle up`. */
import { mkdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { SpindleError } from '@spindle/kit';

const refreshMs = 5_000;
/** Seen from another machine, a lock this old is left over. */
const staleMs = 60_000;
const heldHere = new Set<string>();

interface Owner {
  pid: number;
  host: string;
  /** Start time of the process (Linux), because process ids are used again. */
  started: string;
  since: string;
}

export interface FolderLock {
  release(): Promise<void>;
}

export async function lockFolder(
  root: string,
  who: 'gateway' | 'mesh' = 'gateway',
): Promise<FolderLock> {
  await mkdir(root, { recursive: true });
  const file = join(root, `${who}.lock`);
  const own: Owner = {
    pid: process.pid,
    host: hostname(),
    started: await startTime(process.pid),
    since: new Date().toISOString(),
  };
  for (let attempt = 0; ; attempt++) {
    try {
      await writeFile(file, JSON.stringify(own), { flag: 'wx' });
      break;
    } catch (error) {
      if (!isExisting(error) || attempt > 3) throw error;
      const owner = await readOwner(file);
      if (owner && (await isAlive(owner, file))) {
        throw new SpindleError(
          'FAILED_PRECONDITION',
          `${root}: this artifacts folder is in use by another ${who} (process ${owner.pid} ` +
            `on ${owner.host}, since ${owner.since}); stop it or choose another folder.`,
        );
      }
      await rm(file, { force: true });
    }
  }
  heldHere.add(file);
  const timer = setInterval(() => {
    const now = new Date();
    utimes(file, now, now).catch(() => undefined);
  }, refreshMs);
  timer.unref();
  return {
    release: async () => {
      clearInterval(timer);
      if (heldHere.delete(file)) await rm(file, { force: true });
    },
  };
}

async function isAlive(owner: Owner, file: string): Promise<boolean> {
  if (owner.host !== hostname()) {
    const info = await stat(file).catch(() => null);
    return info !== null && Date.now() - info.mtimeMs < staleMs;
  }
  if (owner.pid === process.pid) return heldHere.has(file);
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ESRCH') return false;
  }
  return (await startTime(owner.pid)) === owner.started;
}

/** When a process started, in the system's own units (Linux); '' where that is not known. */
export async function startTime(pid: number): Promise<string> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The command name in parentheses may hold spaces; start time is the 20th field after it.
  return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '';
}

async function readOwner(file: string): Promise<Owner | null> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Owner;
  } catch {
    // Gone already, or torn by a crash while it was written: nobody holds it.
    return null;
  }
}

function isExisting(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EEXIST';
}
