/** This process's part in data-parallel training, as its environment says. */
import { hostOf, isLoopback, parseConfig, SpindleError, type Transport } from '@spindle/kit';
import { pickEnvironment } from '@spindle/mesh';
import { z } from 'zod';

const rendezvousForm = /^(https:\/\/)?([^:/\s]+|\[[0-9a-fA-F:]+\]):\d+$/;

const rankEnvironment = z
  .object({
    /** How many ranks there are on this machine: this process and those that it starts. */
    SPINDLE_RANKS: z.coerce.number().int().min(1).max(64).default(1),
    /** This one and the next two are set together, where something else starts the ranks. */
    SPINDLE_RANK: z.coerce.number().int().min(0).optional(),
    SPINDLE_WORLD_SIZE: z.coerce.number().int().min(1).max(4096).optional(),
    SPINDLE_RENDEZVOUS: z
      .string()
      .refine((text) => rendezvousForm.test(text), 'expected host:port or https://host:port')
      .optional(),
    SPINDLE_RANK_TIMEOUT: z.coerce.number().positive().max(86_400).default(300),
  })
  .superRefine((env, context) => {
    const {
      SPINDLE_RANK: rank,
      SPINDLE_WORLD_SIZE: worldSize,
      SPINDLE_RENDEZVOUS: rendezvous,
    } = env;
    const given = [rank, worldSize, rendezvous].filter((value) => value !== undefined).length;
    const issue = (path: string, message: string): void =>
      context.addIssue({ code: 'custom', path: [path], message });
    if (given !== 0 && given !== 3) {
      issue(
        'SPINDLE_RANK',
        'expected it with SPINDLE_WORLD_SIZE and SPINDLE_RENDEZVOUS, or none of them',
      );
    }
    if (given > 0 && env.SPINDLE_RANKS > 1) {
      issue('SPINDLE_RANKS', 'expected 1 where SPINDLE_RANK is set');
    }
    if (rank !== undefined && worldSize !== undefined && rank >= worldSize) {
      issue('SPINDLE_RANK', `expected a rank below SPINDLE_WORLD_SIZE (${worldSize}), got ${rank}`);
    }
  });

interface Group {
  worldSize: number;
  timeoutSeconds: number;
}

export type RankPlan =
  | { kind: 'alone' }
  /** This process is rank 0 and starts the others. */
  | ({ kind: 'local' } & Group)
  /** This process is rank 0; something else starts the others. */
  | ({ kind: 'leader'; rendezvous: string } & Group)
  | ({ kind: 'member'; rank: number; rendezvous: string } & Group);

export function rankPlan(variables: Readonly<Record<string, string | undefined>>): RankPlan {
  const env = parseConfig(
    rankEnvironment,
    pickEnvironment(rankEnvironment, variables),
    'environment',
  );
  const {
    SPINDLE_RANK: rank,
    SPINDLE_WORLD_SIZE: worldSize = env.SPINDLE_RANKS,
    SPINDLE_RENDEZVOUS: rendezvous,
  } = env;
  const group = { worldSize, timeoutSeconds: env.SPINDLE_RANK_TIMEOUT };
  if (worldSize === 1) return { kind: 'alone' };
  if (rank === undefined || rendezvous === undefined) return { kind: 'local', ...group };
  return rank === 0
    ? { kind: 'leader', rendezvous, ...group }
    : { kind: 'member', rank, rendezvous, ...group };
}

/** Engines send gradients to each other in plain, whatever certificates there are. */
export function checkRankNetwork(plan: RankPlan, { trusted }: Transport): void {
  if (plan.kind === 'alone' || plan.kind === 'local') return;
  if (trusted || isLoopback(hostOf(plan.rendezvous))) return;
  throw new SpindleError(
    'INVALID_ARGUMENT',
    `SPINDLE_RENDEZVOUS: ranks on other machines than ${plan.rendezvous} would exchange gradients ` +
      'in plain; SPINDLE_TRUSTED_NETWORK=1 says that nobody listens on this network.',
  );
}

/** Where the engines connect: the port after the one where ranks follow rank 0. */
export function groupAddress(rendezvous: string): string {
  const address = rendezvous.replace('https://', '');
  const colon = address.lastIndexOf(':');
  return `tcp:${address.slice(0, colon)}:${Number(address.slice(colon + 1)) + 1}`;
}
