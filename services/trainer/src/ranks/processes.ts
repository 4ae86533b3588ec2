/**
 * The other ranks of this machine as child processes. Each is started, watched, and started again
 * when it ends.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { delay, type Logger } from '@spindle/kit';
import type { RankLeader } from './leader.js';

export interface ProcessesOptions {
  /** The trainer's main module. */
  main: string;
  worldSize: number;
  environment: (rank: number) => Record<string, string | undefined>;
  logger: Logger;
  signal: AbortSignal;
}

/** Tells a rank's process that rank 0 started it, and that it must end with rank 0. */
export const childFlag = '--child';

const restartMs = { first: 100, longest: 10_000 };
/** After so many ends in a row without having followed, a rank counts as unable to start. */
const maxFailedStarts = 3;
const stopMs = 15_000;
const endMs = 1_000;

interface Child {
  process: ChildProcess;
  ended: Promise<string>;
}

export class RankProcesses {
  readonly #children = new Map<number, Child>();
  readonly #failedStarts = new Map<number, number>();
  readonly #watching: Promise<void>[] = [];

  constructor(readonly options: ProcessesOptions) {}

  start(leader: Pick<RankLeader, 'unable'>): void {
    for (let rank = 1; rank < this.options.worldSize; rank++) {
      this.#watching.push(this.#watch(rank, leader));
    }
  }

  /** The rank's process runs and follows: its failed starts are forgotten. */
  follows(rank: number): void {
    this.#failedStarts.set(rank, 0);
  }

  pid(rank: number): number {
    return this.#children.get(rank)?.process.pid ?? 0;
  }

  /** Why the rank's process ended, in words; undefined when it goes on running. */
  async howEnded(rank: number): Promise<string | undefined> {
    const child = this.#children.get(rank);
    if (child === undefined) return undefined;
    return Promise.race([child.ended, delay(endMs).then(() => undefined)]);
  }

  /** Ends all processes. The signal must have aborted, or they are started again. */
  async stop(): Promise<void> {
    for (const { process } of this.#children.values()) process.kill('SIGTERM');
    const timer = setTimeout(() => {
      for (const { process } of this.#children.values()) process.kill('SIGKILL');
    }, stopMs);
    await Promise.all(this.#watching);
    clearTimeout(timer);
  }

  async #watch(rank: number, leader: Pick<RankLeader, 'unable'>): Promise<void> {
    const { main, environment, logger, signal } = this.options;
    let wait = restartMs.first;
    while (!signal.aborted) {
      // The IPC channel closes when this process is gone, however it ends; the child ends then.
      const process = fork(main, [childFlag], {
        env: environment(rank),
        execArgv: [],
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      });
      const ended = new Promise<string>((resolve) => {
        process.once('error', (error) => resolve(error.message));
        process.once('exit', (code, killed) =>
          resolve(killed ? `killed by ${killed}` : `exit code ${code ?? '?'}`),
        );
      });
      this.#children.set(rank, { process, ended });
      const failed = (this.#failedStarts.get(rank) ?? 0) + 1;
      this.#failedStarts.set(rank, failed);
      const reason = await ended;
      if (signal.aborted) return;
      logger.warn({ rank, reason }, 'a rank ended; it is started again');
      if (this.#failedStarts.get(rank) === 0) wait = restartMs.first;
      else if (failed >= maxFailedStarts) leader.unable(rank, reason);
      await delay(wait, signal).catch(() => undefined);
      wait = Math.min(wait * 2, restartMs.longest);
    }
  }
}
