/**
 * Sees jobs that nobody gets: they wait, nothing moves, and all workers of their kind have nothing
 * to do. A server whose file of a consumer is damaged gives out no more of them.
 */
import type { Bus } from '@spindle/mesh';
import type { JobKind } from '@spindle/proto';
import { z } from 'zod';

/** At a comparison every five seconds: longer than a failed job waits for its next try. */
const mostComparisons = 24;

const workersOf: Record<JobKind, string> = {
  encode: 'sampler',
  sample: 'sampler',
  score: 'scorer',
};
const heartbeatSchema = z.object({ job: z.string() });

export class IdleQueue {
  readonly #bus: Pick<Bus, 'kv'>;
  #last = { jobs: '', comparisons: 0 };

  constructor(bus: Pick<Bus, 'kv'>) {
    this.#bus = bus;
  }

  /** `waiting`: keys of the jobs that are not done, by kind. */
  async isStuck(waiting: ReadonlyMap<JobKind, readonly string[]>): Promise<boolean> {
    const jobs = [...waiting.values()].flat().join(' ');
    const isIdle = jobs === this.#last.jobs && (await this.#hasIdleWorkers([...waiting.keys()]));
    this.#last = { jobs, comparisons: isIdle ? this.#last.comparisons + 1 : 0 };
    if (this.#last.comparisons < mostComparisons) return false;
    this.#last.comparisons = 0;
    return true;
  }

  /** Of a kind that jobs wait for; false where none is there. */
  async #hasIdleWorkers(kinds: readonly JobKind[]): Promise<boolean> {
    const workers = this.#bus.kv('workers');
    const keys = await workers.keys();
    for (const service of new Set(kinds.map((kind) => workersOf[kind]))) {
      const own = keys.filter((key) => key.startsWith(`${service}.`));
      const jobs = await Promise.all(
        own.map(async (key) => jobOf((await workers.get(key))?.value)),
      );
      if (jobs.length > 0 && jobs.every((job) => job === '')) return true;
    }
    return false;
  }
}

/** Undefined for a worker that is gone, or says nothing of its job. */
function jobOf(json: string | undefined): string | undefined {
  try {
    return heartbeatSchema.parse(JSON.parse(json ?? '')).job;
  } catch {
    return undefined;
  }
}
