/** Rank 0's side of a training on several ranks: who follows, and collective calls. */
import { randomUUID } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  delay,
  ensureError,
  injectContext,
  linkedAbort,
  SpindleError,
  type Logger,
  type ServiceHandlers,
} from '@spindle/kit';
import type { RankGroupDto } from '@spindle/native';
import type {
  FollowRequest,
  FollowResponseSchema,
  RankService,
  ReportRequest,
} from '@spindle/proto';
import { Commands } from './commands.js';
import { RankLost, type RankCommand, type Ranks } from './ranks.js';

export interface LeaderOptions {
  worldSize: number;
  timeoutSeconds: number;
  /** The address where the engines connect to each other. */
  groupAddress: string;
  logger: Logger;
  /** Says why a rank's process ended. Only there where this process starts the ranks. */
  howEnded?: (rank: number) => Promise<string | undefined>;
  onFollow?: (rank: number) => void;
  stopping: AbortSignal;
}

/** A rank that follows. */
interface Member {
  workerId: string;
  commands: Commands<MessageInitShape<typeof FollowResponseSchema>>;
  pending: Map<
    bigint,
    { resolve: (report: ReportRequest) => void; reject: (error: Error) => void }
  >;
}

/** A failure and its consequences arrive almost together. So long they are waited for. */
const settleMs = 2_000;

/**
 * The other ranks as rank 0 sees them. Each of them is in one of these modes.
 *
 * ## absent
 * The initial mode. The rank has no `Follow` call open. `complete` waits for it, until the timeout;
 * a command to it fails at once with RankLost.
 * - It calls `Follow`: following.
 * - Its process does not come up (`unable`): unable.
 *
 * ## unable
 * Only for a rank that this process starts itself (RankProcesses), after several tries. `complete`
 * fails at once with the reason, instead of at the timeout. Its process is still started again.
 * - It calls `Follow` after all: following.
 *
 * ## following
 * Its `Follow` call is open, and no command is without a report.
 * - A collective call (`onAllRanks`) gives it a command: at work.
 * - `release` gives it a command that has no report: it stays following, and lets go of its models.
 * - Its call ends: absent. Nobody is told; the next command or `complete` finds out.
 *
 * ## at work
 * A command waits for its report.
 * - The report comes: following. With a failure in it, the collective call fails.
 * - The collective call is broken off, since another rank failed or the caller went away:
 *   following. The rank may still be at the command; its late report is ignored. Whoever breaks
 *   off calls `release`, which ends that work.
 * - Its call ends: absent, and the collective call fails with RankLost, which says how the process
 *   ended where that is known.
 *
 * What cannot be: two `Follow` calls of one rank. A new one takes the place, and the call before
 * ends as if the process had. Nor two collective calls at a time: a training makes them one after
 * the other, and a trainer has one training.
 */
export class RankLeader implements Ranks {
  /** Those that follow or are at work. */
  readonly #members = new Map<number, Member>();
  /** Why a rank's process does not come up. */
  readonly #unable = new Map<number, string>();
  #changed = new Event();
  #nextId = 1n;

  constructor(readonly options: LeaderOptions) {}

  get worldSize(): number {
    return this.options.worldSize;
  }

  handlers(): ServiceHandlers<typeof RankService> {
    return {
      follow: (request, { signal }) => this.#follow(request, signal),
      report: async (report) => {
        const waiting = this.#members.get(report.rank)?.pending;
        waiting?.get(report.id)?.resolve(report);
        waiting?.delete(report.id);
        return {};
      },
    };
  }

  /** A rank's process does not come up. Whoever waits for the rank is told the reason. */
  unable(rank: number, reason: string): void {
    this.#unable.set(rank, reason);
    this.#notify();
  }

  async complete(signal: AbortSignal): Promise<void> {
    const { worldSize, timeoutSeconds } = this.options;
    const missing = (): number[] =>
      Array.from({ length: worldSize - 1 }, (_, i) => i + 1).filter(
        (rank) => !this.#members.has(rank),
      );
    const late = AbortSignal.timeout(timeoutSeconds * 1_000);
    using linked = linkedAbort(signal, late);
    while (missing().length > 0) {
      for (const [rank, reason] of this.#unable) {
        throw new SpindleError(
          'FAILED_PRECONDITION',
          `${this.#name(rank)} did not start: ${reason}`,
        );
      }
      if (late.aborted) {
        throw new RankLost(
          `expected all ${worldSize} ranks within ${timeoutSeconds} s, ` +
            `got none from rank ${missing().join(', ')}`,
        );
      }
      if (signal.aborted) throw ensureError(signal.reason);
      await this.#changed.next(linked.signal);
    }
  }

  newGroup(): RankGroupDto {
    const { worldSize, timeoutSeconds, groupAddress } = this.options;
    return { rank: 0, worldSize, address: groupAddress, token: randomUUID(), timeoutSeconds };
  }

  /** Every rank's part is a promise; the first that fails breaks off the others. */
  async onAllRanks<T>(
    command: RankCommand,
    own: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<{ own: T; reports: ReportRequest[] }> {
    using linked = linkedAbort(signal);
    const mine = own(linked.signal);
    const theirs = Array.from({ length: this.worldSize - 1 }, (_, i) =>
      this.#ask(i + 1, command, linked.signal),
    );
    const everyone = Promise.allSettled([mine, ...theirs]);
    try {
      const [value, reports] = await Promise.all([mine, Promise.all(theirs)]);
      return { own: value, reports };
    } catch (first) {
      await Promise.race([everyone, delay(settleMs, signal).catch(() => undefined)]);
      linked.abort(first);
      const failures = (await everyone).flatMap((result) =>
        result.status === 'rejected' ? [ensureError(result.reason)] : [],
      );
      throw explaining(failures);
    }
  }

  release(): void {
    for (const member of this.#members.values()) {
      member.commands.push({ id: this.#nextId++, command: { case: 'release', value: {} } });
    }
  }

  async *#follow(
    { rank, worldSize, workerId }: FollowRequest,
    signal: AbortSignal,
  ): AsyncGenerator<MessageInitShape<typeof FollowResponseSchema>> {
    if (worldSize !== this.worldSize || rank < 1 || rank >= worldSize) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `rank: expected 1 to ${this.worldSize - 1} of ${this.worldSize}, ` +
          `got ${rank} of ${worldSize}`,
      );
    }
    using linked = linkedAbort(signal, this.options.stopping);
    const member: Member = { workerId, commands: new Commands(), pending: new Map() };
    const before = this.#members.get(rank);
    this.#members.set(rank, member);
    before?.commands.end();
    this.#unable.delete(rank);
    this.options.onFollow?.(rank);
    this.#notify();
    this.options.logger.info({ rank, worker: workerId }, 'a rank follows');
    try {
      yield* member.commands.until(linked.signal);
    } finally {
      if (this.#members.get(rank) === member) this.#members.delete(rank);
      if (member.pending.size > 0) {
        const how = await this.options.howEnded?.(rank);
        for (const { reject } of member.pending.values()) {
          reject(new RankLost(`${this.#name(rank)} ended${how === undefined ? '' : ` (${how})`}`));
        }
      }
      this.#notify();
    }
  }

  async #ask(rank: number, command: RankCommand, signal: AbortSignal): Promise<ReportRequest> {
    const member = this.#members.get(rank);
    if (member === undefined) throw new RankLost(`${this.#name(rank)} is not there`);
    const id = this.#nextId++;
    const trace: Record<string, string> = {};
    injectContext(trace);
    const report = await new Promise<ReportRequest>((resolve, reject) => {
      const onAbort = (): void => settle(() => reject(ensureError(signal.reason)));
      const settle = (how: () => void): void => {
        signal.removeEventListener('abort', onAbort);
        member.pending.delete(id);
        how();
      };
      if (signal.aborted) return reject(ensureError(signal.reason));
      signal.addEventListener('abort', onAbort, { once: true });
      member.pending.set(id, {
        resolve: (value) => settle(() => resolve(value)),
        reject: (error) => settle(() => reject(error)),
      });
      member.commands.push({ id, trace, command });
    });
    if (report.failure === undefined) return report;
    const { code, message } = ensureError(
      Object.assign(new Error(report.failure.message), { code: report.failure.code }),
    );
    throw new SpindleError(code, `${this.#name(rank)}: ${message}`);
  }

  #name(rank: number): string {
    return `rank ${rank} of ${this.worldSize}`;
  }

  #notify(): void {
    this.#changed.happen();
  }
}

/**
 * The failure that explains the others. First comes one with a cause of its own, then the end of a
 * process, then those that only miss another rank.
 */
function explaining(failures: readonly SpindleError[]): SpindleError {
  const consequence = (error: SpindleError): boolean =>
    ['UNAVAILABLE', 'CANCELLED', 'ABORTED'].includes(error.code);
  const cause =
    failures.find((error) => !consequence(error)) ??
    failures.find((error) => error instanceof RankLost);
  if (cause !== undefined) return cause;
  const unavailable = failures.find((error) => error.code === 'UNAVAILABLE');
  if (unavailable !== undefined) return new RankLost(unavailable.message, { cause: unavailable });
  return failures[0] ?? new SpindleError('INTERNAL', 'a rank failed without an error');
}

/** An event that can happen many times, and be waited for each time. */
class Event {
  readonly #waiting = new Set<() => void>();

  happen(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  /** Resolves when it happens next, or when the signal aborts. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      if (signal.aborted) return resolve();
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }
}
