/**
 * Puts jobs on the queue in the background: publishing waits while the queue is full, and nothing
 * else may wait for that.
 */
import { delay, ensureError, extractContext, inSpan } from '@spindle/kit';
import { heal } from './heal.js';
import { isLoss } from './loss.js';
import { buildJob, type ShardOf } from './jobs.js';
import { background, type RunContext } from './run-context.js';

const retryMs = 500;

export class JobPublisher {
  readonly #context: RunContext;
  #queue: ShardOf[] = [];
  #running: Promise<void> | null = null;
  /** Grows when the queue is forgotten: what was taken from it before is not published. */
  #generation = 0;

  constructor(context: RunContext) {
    this.#context = context;
  }

  add(stage: string, shards: readonly number[]): void {
    this.#queue.push(...shards.map((shard) => ({ stage, shard })));
    this.#running ??= this.#drain().finally(() => {
      this.#running = null;
      if (this.#queue.length > 0 && !this.#context.stop.aborted) this.add('', []);
    });
  }

  /** Forgets what is not yet on the queue. */
  clear(): void {
    this.#queue = [];
    this.#generation += 1;
  }

  /** Jobs are still on their way to the queue. */
  get busy(): boolean {
    return this.#running !== null;
  }

  async #drain(): Promise<void> {
    const { stop } = this.#context;
    for (let item = this.#queue.shift(); item && !stop.aborted; item = this.#queue.shift()) {
      const generation = this.#generation;
      try {
        await this.#publish(item, generation);
      } catch (thrown) {
        if (stop.aborted) return;
        const error = ensureError(thrown);
        if (!error.retryable) {
          if (!(isLoss(error) && (await heal(this.#context, item)))) this.#giveUp(item, error);
          continue;
        }
        this.#context.ports.logger.warn(
          { err: error },
          'a job could not be published; trying again',
        );
        if (generation === this.#generation) this.#queue.unshift(item);
        await delay(retryMs, stop).catch(() => undefined);
      }
    }
  }

  async #publish(item: ShardOf, generation: number): Promise<void> {
    const job = await buildJob(this.#context, item);
    if (generation !== this.#generation) return;
    const { state, trace } = this.#context.record();
    const { ports, stop } = this.#context;
    // Each job continues the run's trace, also after a restart.
    await inSpan(
      'dispatch job',
      { 'spindle.job': job.key },
      () => ports.bus.publishJob(job, state.round, { signal: stop }),
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
