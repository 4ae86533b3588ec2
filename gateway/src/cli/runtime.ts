/**
 * artifacts/runtime.json: where the mesh of an artifacts folder can be reached, for every other
 * command.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '@spindle/kit';

export interface Runtime {
  /** The process of `spindle up`. */
  pid: number;
  /** What every process of the mesh, and every command, shows to the others. */
  token: string;
  natsUrl: string;
  /** 0 for a server that is not ours. */
  natsPid: number;
  /** Start time of that process: process ids are used again. */
  natsStarted: string;
  /** host:port of the gateway's gRPC server. */
  gateway: string;
  /** Address of the status page. */
  http: string;
  /** Services with their process ids, as last started. */
  services: { name: string; pid: number; started: string; address: string }[];
  /** Where these process ids mean their processes: the boot, and a container's name space. */
  place: string;
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
  const text = `${JSON.stringify(runtime, null, 2)}\n`;
  await writeFileAtomic(runtimeFile(artifacts), text, { mode: 0o600 });
}

export async function removeRuntime(artifacts: string): Promise<void> {
  await rm(runtimeFile(artifacts), { force: true });
}
