/** Rank 0's side: who follows, and work that all ranks do together. */
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

export type RankCommand = Exclude<
  MessageInitShape<typeof FollowResponseSchema>['command'],
  undefined
>;

/** A rank is gone or silent; the weights of rank 0 are those of its last complete step. */
export class RankLost extends SpindleError {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super('UNAVAILABLE', message, options);
  }
}

export interface LeaderOptions {
  worldSize: number;
  timeoutSeconds: number;
  /** Where the engines meet. */
  groupAddress: string;
  logger: Logger;
  /** Why a rank's process ended, where this process started it. */
  howEnded?: (rank: number) => Promise<string | undefined>;
  onFollow?: (rank: number) => void;
  stopping: AbortSignal;
}

interface Member {
  workerId: string;
  commands: Commands<MessageInitShape<typeof FollowResponseSchema>>;
  pending: Map<
    bigint,
    { resolve: (report: ReportRequest) => void; reject: (error: Error) => void }
  >;
}

/** The consequences of a failure arrive together with it; so long they are waited for. */
const settleMs = 2_000;

export class RankLeader {
  readonly #members = new Map<number, Member>();
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

  /**
   * A rank's process does not come up: whoever waits for it is told. Forgotten once it follows
   * after all.
   */
  unable(rank: number, reason: string): void {
    this.#unable.set(rank, reason);
    this.#notify();
  }

  /** Resolves when every rank follows. */
  async complete(signal: AbortSignal): Promise<void> {
    const { worldSize, timeoutSeconds } = this.options;
    const missing = (): number[] =>
      Array.from({ length: worldSize - 1 }, (_, i) => i + 1).filter(
        (rank) => !this.#members.has(rank),
      );
    const late = AbortSignal.timeout(timeoutSeconds * 1_000);
    using linked = linkedAbort(signal, late);
    while (missing().length > 0) {
      for (const [rank, reason] of this.#unable)
        throw new SpindleError(
          'FAILED_PRECONDITION',
          `${this.#name(rank)} did not start: ${reason}`,
        );
      if (late.aborted)
        throw new RankLost(
          `expected all ${worldSize} ranks within ${timeoutSeconds} s, got none from rank ${missing().join(', ')}`,
        );
      if (signal.aborted) throw ensureError(signal.reason);
      await this.#changed.next(linked.signal);
    }
  }

  /** A fresh group for the engines; rank 0's view of it. */
  newGroup(): RankGroupDto {
    const { worldSize, timeoutSeconds, groupAddress } = this.options;
    return { rank: 0, worldSize, address: groupAddress, token: randomUUID(), timeoutSeconds };
  }

  /**
   * Gives every other rank a command, does this one's own part, and resolves when all are done.
   * When one fails, the others are broken off, and the error is the one that explains the others.
   */
  async together<T>(
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

  /** Lets go of the ranks' models, whatever they are doing. */
  release(): void {
    for (const member of this.#members.values())
      member.commands.push({ id: this.#nextId++, command: { case: 'release', value: {} } });
  }

  async *#follow(
    { rank, worldSize, workerId }: FollowRequest,
    signal: AbortSignal,
  ): AsyncGenerator<MessageInitShape<typeof FollowResponseSchema>> {
    if (worldSize !== this.worldSize || rank < 1 || rank >= worldSize)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `rank: expected 1 to ${this.worldSize - 1} of ${this.worldSize}, got ${rank} of ${worldSize}`,
      );
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
        for (const { reject } of member.pending.values())
          reject(new RankLost(`${this.#name(rank)} ended${how === undefined ? '' : ` (${how})`}`));
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
 * A process that ended says more than those that miss it, and a failure with a cause of its own
 * more than either.
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

/** Something that happens again and again. */
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
