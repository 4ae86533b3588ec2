/** What every open page asks for again and again: made once for all of them. */
import type { Bus } from '@spindle/mesh';
import type { RunRecord } from '../orchestrator/record.js';
import type { RunApi } from '../server/run-service.js';
import { runJson, workers, type Workers } from './views.js';

/** Shorter than the time after which a page is told of a run again. */
const runMs = 400;
/** Heartbeats come every five seconds. */
const workersMs = 2_000;

export class LiveViews {
  readonly #options: { api: RunApi; bus: Bus };
  /** By record, which never changes; rates and remaining times move all the same. */
  readonly #runs = new WeakMap<RunRecord, { json: string; until: number }>();
  #workers: { asked: Promise<Workers>; until: number } | null = null;

  constructor(options: { api: RunApi; bus: Bus }) {
    this.#options = options;
  }

  /** The whole run as JSON text. */
  runJson(record: RunRecord): string {
    const known = this.#runs.get(record);
    if (known !== undefined && performance.now() < known.until) return known.json;
    const json = JSON.stringify(runJson(record, this.#options.api));
    this.#runs.set(record, { json, until: performance.now() + runMs });
    return json;
  }

  /** Who is there, and what waits for them; empty while the bus cannot be reached. */
  workers(): Promise<Workers> {
    if (this.#workers === null || performance.now() >= this.#workers.until)
      this.#workers = { asked: workers(this.#options.bus), until: performance.now() + workersMs };
    return this.#workers.asked;
  }
}
