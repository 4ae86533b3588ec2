/**
 * One live owner per artifacts folder: one gateway, and one `spindle up`.
 *
 * Holders are numbered: who takes the folder makes `gateway.lock.<n + 1>`, which link() grants to
 * one process alone, and the highest number holds. That file is never removed but by a higher one's
 * maker, and its holder writes into it through a handle, never by name. So nobody can remove or
 * renew another's lock, and a holder that finds a higher number holds no more.
 *
 * A holder that cannot be asked for by its process id is watched instead: its file changes every
 * few seconds while it lives. The watcher's own clock measures that, so clocks of two machines are
 * never compared.
 */
import { randomUUID } from 'node:crypto';
import {
  access,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rm,
  stat,
  type FileHandle,
} from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { delay, isCode, SpindleError } from '@spindle/kit';
import { livesHere, ownIdentity, type ProcessIdentity } from './process-identity.js';

export type LockName = 'gateway' | 'mesh';

export interface FolderLock {
  /** Aborts when another process has taken the folder. */
  readonly lost: AbortSignal;
  /** Throws ABORTED where another process has taken the folder; looks when that is not known. */
  assertHeld(): Promise<void>;
  release(): Promise<void>;
}

export interface LockOptions {
  signal?: AbortSignal;
  /** Called when it takes a while to see whether the holder lives. */
  onWait?: (message: string) => void;
  /** How often a holder says that it lives. */
  refreshMs?: number;
  /** A holder that says nothing for so long is gone. */
  staleMs?: number;
}

interface Holder extends ProcessIdentity {
  id: string;
  since: string;
  beat: number;
  released: boolean;
}

interface Found {
  number: number;
  file: string;
}

const standard = { refreshMs: 2_000, staleMs: 20_000 };
/** Holders are written over in place, so all are of one length. */
const holderBytes = 1_024;
/** Of locks that this process holds. */
const heldHere = new Set<string>();

/** Refuses a folder whose holder lives: FAILED_PRECONDITION. */
export async function lockFolder(
  root: string,
  who: LockName = 'gateway',
  options: LockOptions = {},
): Promise<FolderLock> {
  await mkdir(root, { recursive: true });
  const times = { ...standard, ...options };
  for (;;) {
    const newest = (await locks(root, who)).at(-1);
    if (newest !== undefined && !(await isFree(newest, who, times))) throw await inUse(newest, who);
    const lock = await HeldLock.take(root, who, (newest?.number ?? 0) + 1, times.refreshMs);
    if (lock !== null) return lock;
  }
}

class HeldLock implements FolderLock {
  readonly #controller = new AbortController();
  #checked = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #refreshing: Promise<void> = Promise.resolve();
  #released = false;

  private constructor(
    readonly root: string,
    readonly who: LockName,
    readonly number: number,
    readonly handle: FileHandle,
    readonly holder: Holder,
    readonly refreshMs: number,
  ) {
    heldHere.add(holder.id);
    this.#schedule();
  }

  /** Null where another process was first. */
  static async take(
    root: string,
    who: LockName,
    number: number,
    refreshMs: number,
  ): Promise<HeldLock | null> {
    const holder: Holder = {
      ...(await ownIdentity()),
      id: randomUUID(),
      since: new Date().toISOString(),
      beat: 0,
      released: false,
    };
    const temporary = join(root, `.${who}.lock.${holder.id}.tmp`);
    const handle = await open(temporary, 'wx');
    try {
      await write(handle, holder);
      await link(temporary, fileOf(root, who, number));
    } catch (error) {
      await handle.close();
      if (isCode(error, 'EEXIST')) return null;
      throw error;
    } finally {
      await rm(temporary, { force: true });
    }
    const found = await locks(root, who);
    if (found.at(-1)?.number !== number) {
      // The number had been used before: what was read of the folder was old.
      await handle.close();
      await rm(fileOf(root, who, number), { force: true });
      return null;
    }
    // In this order a holder of before never sees its successor gone and itself still there.
    for (const old of found) if (old.number < number) await rm(old.file, { force: true });
    return new HeldLock(root, who, number, handle, holder, refreshMs);
  }

  get lost(): AbortSignal {
    return this.#controller.signal;
  }

  async assertHeld(): Promise<void> {
    // A process that was stopped for a while has not looked for as long.
    if (performance.now() - this.#checked > 2 * this.refreshMs) await this.#check();
    this.lost.throwIfAborted();
  }

  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    clearTimeout(this.#timer);
    await this.#refreshing;
    heldHere.delete(this.holder.id);
    // Into its own file, whoever has taken the folder since.
    await write(this.handle, { ...this.holder, released: true }).catch(() => undefined);
    await this.handle.close().catch(() => undefined);
  }

  #schedule(): void {
    if (this.#released || this.lost.aborted) return;
    this.#timer = setTimeout(() => {
      this.#refreshing = this.#refresh();
    }, this.refreshMs);
    this.#timer.unref();
  }

  async #refresh(): Promise<void> {
    this.holder.beat++;
    // Where it cannot be written, others will think that this process is gone: the check tells.
    await write(this.handle, this.holder).catch(() => undefined);
    await this.#check();
    this.#schedule();
  }

  async #check(): Promise<void> {
    const isThere = (number: number): Promise<boolean | null> =>
      access(fileOf(this.root, this.who, number)).then(
        () => true,
        (error: unknown) => (isCode(error, 'ENOENT') ? false : null),
      );
    const [own, next] = [await isThere(this.number), await isThere(this.number + 1)];
    if (own === false || next === true) {
      heldHere.delete(this.holder.id);
      this.#controller.abort(
        new SpindleError(
          'ABORTED',
          `${this.root}: another ${this.who} has taken this artifacts folder over.`,
        ),
      );
    } else if (own !== null && next !== null) this.#checked = performance.now();
  }
}

/** Waits where only the holder's own signs of life can tell. */
async function isFree(
  found: Found,
  who: LockName,
  { signal, onWait, refreshMs, staleMs }: LockOptions & { refreshMs: number; staleMs: number },
): Promise<boolean> {
  const first = await look(found);
  if (first === null || first.holder?.released) return true;
  const { holder } = first;
  const lives = holder && (await isAliveHere(holder));
  if (lives !== null && lives !== undefined) return !lives;
  onWait?.(
    `${found.file}: waiting up to ${Math.ceil(staleMs / 1_000)} s to see whether the ${who} that ` +
      `holds this folder (process ${holder?.pid ?? '?'} on ${holder?.host ?? '?'}) is alive`,
  );
  const began = performance.now();
  while (performance.now() - began < staleMs) {
    await delay(Math.min(250, refreshMs), signal);
    const now = await look(found);
    if (now === null || now.holder?.released) return true;
    if (now.text !== first.text) return false;
  }
  return true;
}

async function isAliveHere(holder: Holder): Promise<boolean | null> {
  const lives = await livesHere(holder);
  return lives && holder.pid === process.pid ? heldHere.has(holder.id) : lives;
}

/** Null where the file is gone: another number is the highest then. */
async function look({ file }: Found): Promise<{ text: string; holder: Holder | null } | null> {
  try {
    const text = await readFile(file, 'utf8');
    // Holders of older versions only touch their file.
    const { mtimeMs } = await stat(file);
    return { text: `${mtimeMs} ${text}`, holder: parse(text) };
  } catch (error) {
    if (isCode(error, 'ENOENT')) return null;
    throw error;
  }
}

/** Null for what was damaged. */
function parse(text: string): Holder | null {
  try {
    const holder = JSON.parse(text) as Partial<Holder> & ProcessIdentity;
    return { id: '', since: '?', beat: 0, released: false, ...holder };
  } catch {
    return null;
  }
}

async function inUse(found: Found, who: LockName): Promise<SpindleError> {
  const holder = (await look(found).catch(() => null))?.holder;
  return new SpindleError(
    'FAILED_PRECONDITION',
    `${found.file}: this artifacts folder is in use by another ${who} (process ` +
      `${holder?.pid ?? '?'} on ${holder?.host ?? hostname()}, since ${holder?.since ?? '?'}); ` +
      'stop it or choose another folder.',
  );
}

/** The lowest number first. Older versions had one file without a number. */
async function locks(root: string, who: LockName): Promise<Found[]> {
  const names = await readdir(root);
  const found = names.flatMap((name): Found[] => {
    if (name === `${who}.lock`) return [{ number: 0, file: join(root, name) }];
    const number = name.startsWith(`${who}.lock.`) ? Number(name.slice(who.length + 6)) : NaN;
    return Number.isSafeInteger(number) && number > 0
      ? [{ number, file: fileOf(root, who, number) }]
      : [];
  });
  return found.sort((a, b) => a.number - b.number);
}

function fileOf(root: string, who: LockName, number: number): string {
  return join(root, `${who}.lock.${number}`);
}

async function write(handle: FileHandle, holder: Holder): Promise<void> {
  const text = JSON.stringify(holder).padEnd(holderBytes - 1);
  await handle.write(`${text}\n`, 0);
  await handle.datasync();
}
