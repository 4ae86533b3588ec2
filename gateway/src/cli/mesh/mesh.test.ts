import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { lockFolder } from '../../orchestrator/folder-lock.js';
import { ownIdentity, startTime } from '../../orchestrator/process-identity.js';
import { runtimeFile, writeRuntime } from '../runtime.js';
import { startMesh } from './mesh.js';

let artifacts: string;
let children: ChildProcess[];
beforeEach(() => {
  artifacts = mkdtempSync(join(tmpdir(), 'spindle-up-'));
  children = [];
});
afterEach(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(artifacts, { recursive: true });
});

/** Begins to start, and is interrupted at once; what it said on the way. */
async function interrupted(): Promise<string[]> {
  const said: string[] = [];
  const interrupt = new AbortController();
  const start = startMesh({
    artifacts,
    samplers: 1,
    scorers: 1,
    threads: 1,
    ranks: 1,
    grpcPort: 0,
    httpPort: 0,
    logLevel: 'error',
    environment: process.env,
    signal: interrupt.signal,
    onLine: () => undefined,
    onNotice: (text) => said.push(text),
  });
  interrupt.abort();
  await expect(start).rejects.toMatchObject({ code: 'CANCELLED' });
  return said;
}

it('that is interrupted while it starts stops what it started and lets go of the folder', async () => {
  await interrupted();
  await (await lockFolder(artifacts, 'mesh')).release();
  expect(existsSync(runtimeFile(artifacts))).toBe(false);
});

it('ends what a killed one left behind, and no process that only has its number', async () => {
  const service = async (): Promise<{ child: ChildProcess; pid: number; started: string }> => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => 0, 1000)', 'dist/main.js']);
    children.push(child);
    await once(child, 'spawn');
    const pid = child.pid ?? 0;
    return { child, pid, started: await startTime(pid) };
  };
  const [left, other, unknown] = [await service(), await service(), await service()];
  const ended = once(left.child, 'exit');
  await writeRuntime(artifacts, {
    pid: 1,
    token: 't',
    place: (await ownIdentity()).place,
    natsUrl: '',
    natsPid: unknown.pid,
    natsStarted: '',
    gateway: '',
    http: '',
    services: [
      { name: 'sampler', pid: left.pid, started: left.started, address: '' },
      { name: 'scorer', pid: other.pid, started: `${Number(other.started) - 1}`, address: '' },
    ],
  });
  expect(statSync(runtimeFile(artifacts)).mode & 0o777).toBe(0o600);
  expect(await interrupted()).toEqual([
    `ending sampler (process ${left.pid}), which an earlier mesh left behind`,
  ]);
  await ended;
  for (const { child } of [other, unknown]) {
    expect(child.exitCode).toBeNull();
    expect(child.signalCode).toBeNull();
  }
});
