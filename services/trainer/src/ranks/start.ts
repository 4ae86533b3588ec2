/** How rank 0 starts: where ranks follow it, and the processes that it starts itself. */
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Lifecycle, Logger } from '@spindle/kit';
import { RankLeader } from './leader.js';
import { groupAddress, type RankPlan } from './plan.js';
import { RankProcesses } from './processes.js';

export interface StartOptions {
  /** The trainer's main module. */
  main: string;
  /** This process's environment, which the other ranks inherit. */
  variables: Readonly<Record<string, string | undefined>>;
  /** How many threads each rank's engine has. */
  threads: number;
  /** The backend of rank 0's engine. */
  backend: string;
  /** Whether rank 0's port is one of TLS. */
  encrypted?: boolean;
  workerId: string;
  logger: Logger;
}

export interface StartedRanks {
  leader: RankLeader;
  processes: RankProcesses | undefined;
  /** Starts the other ranks, once rank 0 takes calls at this port. */
  launch(port: number): void;
}

/** The threads of each rank: those asked for, or an even part of the machine's cores. */
export function localThreads(asked: number, worldSize: number): number {
  return asked > 0 ? asked : Math.max(1, Math.floor(availableParallelism() / worldSize));
}

/** The backend of a rank: on one machine each takes a GPU of its own, counted from rank 0's. */
export function rankBackend(asked: string | undefined, backend: string, rank: number): string {
  if (backend !== 'cuda') return asked ?? '';
  const first = Number(/^cuda:(\d+)$/.exec(asked ?? '')?.[1] ?? 0);
  return `cuda:${first + rank}`;
}

/** Resolves with null where this process starts no ranks and leads none. */
export async function startRanks(
  lifecycle: Lifecycle,
  plan: RankPlan,
  options: StartOptions,
): Promise<StartedRanks | null> {
  const { logger, main, workerId } = options;
  const stopping = lifecycle.signal;
  if (plan.kind === 'alone' || plan.kind === 'member') return null;
  const { worldSize, timeoutSeconds } = plan;
  if (plan.kind === 'leader') {
    const leader = new RankLeader({
      worldSize,
      timeoutSeconds,
      groupAddress: groupAddress(plan.rendezvous),
      logger,
      stopping,
    });
    return { leader, processes: undefined, launch: () => undefined };
  }
  const folder = await mkdtemp(join(tmpdir(), 'spindle-ranks-'));
  lifecycle.defer('ranks folder', () => rm(folder, { recursive: true, force: true }));
  let rendezvous = '';
  const environment = (rank: number): Record<string, string | undefined> => ({
    ...options.variables,
    SPINDLE_RANKS: '',
    SPINDLE_RANK: String(rank),
    SPINDLE_WORLD_SIZE: String(worldSize),
    SPINDLE_RENDEZVOUS: rendezvous,
    SPINDLE_THREADS: String(options.threads),
    SPINDLE_BACKEND: rankBackend(options.variables['SPINDLE_BACKEND'], options.backend, rank),
    SPINDLE_WORKER_ID: `${workerId}-rank${rank}`,
    SPINDLE_GRPC_ADDRESS: '',
    SPINDLE_PORT_FILE: '',
    SPINDLE_HEALTH_ADDRESS: '',
  });
  const processes = new RankProcesses({ main, worldSize, environment, logger, signal: stopping });
  lifecycle.defer('ranks', () => processes.stop());
  const leader = new RankLeader({
    worldSize,
    timeoutSeconds,
    groupAddress: `unix:${join(folder, 'group')}`,
    logger,
    stopping,
    howEnded: (rank) => processes.howEnded(rank),
    onFollow: (rank) => processes.follows(rank),
  });
  const launch = (port: number): void => {
    rendezvous = options.encrypted ? `https://localhost:${port}` : `127.0.0.1:${port}`;
    processes.start(leader);
  };
  return { leader, processes, launch };
}
