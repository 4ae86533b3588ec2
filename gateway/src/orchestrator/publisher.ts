/**
 * Puts jobs on the queue in the background: publishing waits while the queue is full, and nothing
 * else may wait for that.
 */
import { setMaxListeners } from 'node:events';
import {
  delay,
  ensureError,
  extractContext,
  inSpan,
  linkedAbort,
  type SpindleError,
} from '@spindle/kit';
import { heal } from './heal.js';
import { isLoss } from './loss.js';
import { buildJob, type ShardOf } from './jobs.js';
import { background, type RunContext } from './run-context.js';

const retryMs = 500;
/** Jobs on their way at a time: the server's answers are waited for together. */
const underWay = 64;

interface Failure {
  item: ShardOf;
  error: SpindleError;
}

export class JobPublisher {
  readonly #context: RunContext;
  #queue: ShardOf[] = [];
  #running: Promise<void> | null = null;
  /** Aborts when the queue is forgotten: what was taken from it before is not published. */
  #current = new AbortController();

  constructor(context: RunContext) {
    this.#context = context;
  }

  add(stage: string, shards: readonly number[]): void {
    for (const shard of shards) this.#queue.push({ stage, shard });
    this.#running ??= this.#drain().finally(() => {
      this.#running = null;
      if (this.#queue.length > 0 && !this.#context.stop.aborted) this.add('', []);
    });
  }

  /** Forgets what is not yet on the queue. */
  clear(): void {
    this.#queue = [];
    this.#current.abort();
    this.#current = new AbortController();
  }

  /** Jobs are still on their way to the queue. */
  get busy(): boolean {
    return this.#running !== null;
  }

  /** In the order of the queue, but for those that have to be tried again. */
  async #drain(): Promise<void> {
    const { stop } = this.#context;
    while (this.#queue.length > 0 && !stop.aborted) {
      const { signal } = this.#current;
      using either = linkedAbort(stop, signal);
      // Every lane may listen while the queue is full.
      setMaxListeners(0, either.signal);
      const failures: Failure[] = [];
      const lane = async (): Promise<void> => {
        while (!either.signal.aborted && failures.length === 0) {
          const item = this.#queue.shift();
          if (!item) return;
          await this.#publish(item, either.signal).catch((thrown: unknown) =>
            failures.push({ item, error: ensureError(thrown) }),
          );
        }
      };
      await Promise.all(Array.from({ length: Math.min(underWay, this.#queue.length) }, lane));
      const again = await this.#settle(failures, signal);
      if (again.length === 0 || signal.aborted) continue;
      this.#queue.unshift(...again);
      await delay(retryMs, stop).catch(() => undefined);
    }
  }

  /** One after the other: what is lost for many jobs is made again once. Returns what may pass. */
  async #settle(failures: readonly Failure[], forgotten: AbortSignal): Promise<ShardOf[]> {
    const { stop, ports } = this.#context;
    const again: ShardOf[] = [];
    for (const { item, error } of failures) {
      if (stop.aborted || forgotten.aborted) return [];
      if (error.retryable) {
        ports.logger.warn({ err: error }, 'a job could not be published; trying again');
        again.push(item);
      } else if (!(isLoss(error) && (await heal(this.#context, item)))) {
        this.#giveUp(item, error);
      }
    }
    return again;
  }

  async #publish(item: ShardOf, signal: AbortSignal): Promise<void> {
    const job = await buildJob(this.#context, item);
    if (signal.aborted) return;
    const { state, trace } = this.#context.record();
    const { ports } = this.#context;
    // Each job continues the run's trace, also after a restart.
    await inSpan(
      'dispatch job',
      { 'spindle.job': job.key },
      () => ports.bus.publishJob(job, state.round, { signal }),
      extractContext(trace),
    );
  }

  /** The job cannot be made, or is refused for good. */
  #giveUp({ stage, shard }: ShardOf, error: Error): void {
    const reason = error.message;
    void background(
      this.#context,
      this.#context.dispatch({ type: 'job-dead', stage, shard, reason, attempts: 0 }),
    );
  }
}
