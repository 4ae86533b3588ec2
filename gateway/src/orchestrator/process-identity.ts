/** Telling a process from every other one, on this machine and on others. */
import { readFile, readlink } from 'node:fs/promises';
import { hostname } from 'node:os';

export interface ProcessIdentity {
  pid: number;
  host: string;
  /** Start time of the process (Linux), because process ids are used again. */
  started: string;
  /** Where `pid` means this process: the kernel's boot and, for containers, the name space. */
  place: string;
}

export async function ownIdentity(): Promise<ProcessIdentity> {
  const { pid } = process;
  return { pid, host: hostname(), started: await startTime(pid), place: await ownPlace() };
}

/** Null where only the process itself could tell: it is of another machine, boot or container. */
export async function livesHere({
  pid,
  started,
  place,
}: Pick<ProcessIdentity, 'pid' | 'started' | 'place'>): Promise<boolean | null> {
  if (place !== (await ownPlace())) return null;
  return isAlive(pid) && (await startTime(pid)) === started;
}

/** Whether any process has this id here. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // Not ours to signal means that it lives.
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** Empty where it is not known. */
export async function startTime(pid: number): Promise<string> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The command name in parentheses may hold spaces; start time is the 20th field after it.
  return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '';
}

async function ownPlace(): Promise<string> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => hostname());
  const space = await readlink('/proc/self/ns/pid').catch(() => '');
  return `${boot.trim()} ${space}`;
}
