/**
 * artifacts/runtime.json: where the mesh of an artifacts folder can be reached, for every other
 * command.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '@spindle/kit';
import { isAlive, livesHere, ownIdentity, startTime } from '../orchestrator/process-identity.js';

export interface Runtime {
  /** The process of `spindle up`. */
  pid: number;
  natsUrl: string;
  /** 0 for a server that is not ours. */
  natsPid: number;
  /** host:port of the gateway's gRPC server. */
  gateway: string;
  /** Address of the status page. */
  http: string;
  /** Services with their process ids, as last started. */
  services: { name: string; pid: number; address: string }[];
  /**
   * Start times of these processes, by id, and where the ids mean them: another process may have
   * an id by the time that a later mesh reads this.
   */
  started?: Record<string, string>;
  place?: string;
}

export function runtimeFile(artifacts: string): string {
  return join(artifacts, 'runtime.json');
}

export async function readRuntime(artifacts: string): Promise<Runtime | null> {
  try {
    return JSON.parse(await readFile(runtimeFile(artifacts), 'utf8')) as Runtime;
  } catch {
    // None, or torn: either way nobody can be reached through it.
    return null;
  }
}

export async function writeRuntime(artifacts: string, runtime: Runtime): Promise<void> {
  const pids = [runtime.natsPid, ...runtime.services.map(({ pid }) => pid)];
  const times = pids.map(async (pid) => [pid, await startTime(pid)] as const);
  const started = Object.fromEntries(await Promise.all(times));
  const { place } = await ownIdentity();
  const known = { ...runtime, started, place };
  await writeFileAtomic(runtimeFile(artifacts), `${JSON.stringify(known, null, 2)}\n`);
}

/** Whether a process of that mesh still runs here, and is not another one with its id. */
export async function stillRuns({ started, place }: Runtime, pid: number): Promise<boolean> {
  // Older versions noted neither.
  if (started === undefined || place === undefined) return isAlive(pid);
  return (await livesHere({ pid, started: started[pid] ?? '', place })) === true;
}

export async function removeRuntime(artifacts: string): Promise<void> {
  await rm(runtimeFile(artifacts), { force: true });
}
