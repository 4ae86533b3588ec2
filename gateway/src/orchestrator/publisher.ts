/**
 * Puts jobs on the queue in the background: publishing waits while the queue is full, and nothing
 * else may wait for that.
 */
import { delay, ensureError, type Logger } from '@spindle/kit';
import type { Job } from '@spindle/proto';

export interface Item {
  stage: string;
  shard: number;
}

export interface JobPublisherOptions {
  /** Queues a job; waits while the queue is full. */
  publish: (job: Job, round: number, signal: AbortSignal) => Promise<void>;
  build: (stage: string, shard: number) => Promise<Job>;
  round: () => number;
  /** The job cannot be made or is refused for good. */
  failed: (item: Item, error: Error) => void;
  logger: Logger;
  signal: AbortSignal;
}

export class JobPublisher {
  #queue: Item[] = [];
  #running: Promise<void> | null = null;
  #generation = 0;
  readonly #options: JobPublisherOptions;

  constructor(options: JobPublisherOptions) {
    this.#options = options;
  }

  add(stage: string, shards: number[]): void {
    this.#queue.push(...shards.map((shard) => ({ stage, shard })));
    this.#running ??= this.#drain().finally(() => {
      this.#running = null;
      if (this.#queue.length > 0 && !this.#options.signal.aborted) this.add('', []);
    });
  }

  /** Forgets what is not yet on the queue. */
  clear(): void {
    this.#queue = [];
    this.#generation += 1;
  }

  get busy(): boolean {
    return this.#running !== null;
  }

  async #drain(): Promise<void> {
    const { publish, build, round, failed, logger, signal } = this.#options;
    for (let item = this.#queue.shift(); item && !signal.aborted; item = this.#queue.shift()) {
      const generation = this.#generation;
      try {
        const job = await build(item.stage, item.shard);
        if (generation === this.#generation) await publish(job, round(), signal);
      } catch (thrown) {
        if (signal.aborted) return;
        const error = ensureError(thrown);
        if (!error.retryable) {
          failed(item, error);
          continue;
        }
        logger.warn({ err: error }, 'a job could not be published; trying again');
        if (generation === this.#generation) this.#queue.unshift(item);
        await delay(500, signal).catch(() => undefined);
      }
    }
  }
}
