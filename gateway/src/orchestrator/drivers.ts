/** The runs that are driven, by id, and in the order of lists. */
import type { RunDriver } from './driver.js';

export class Drivers extends Map<string, RunDriver> {
  #newestFirst: readonly RunDriver[] | null = null;

  /** The same array until a run comes or goes: a run's time of creation never changes. */
  newestFirst(): readonly RunDriver[] {
    this.#newestFirst ??= [...this.values()].sort(newestFirst);
    return this.#newestFirst;
  }

  override set(runId: string, driver: RunDriver): this {
    this.#newestFirst = null;
    return super.set(runId, driver);
  }

  override delete(runId: string): boolean {
    this.#newestFirst = null;
    return super.delete(runId);
  }

  override clear(): void {
    this.#newestFirst = null;
    super.clear();
  }
}

function newestFirst({ record: a }: RunDriver, { record: b }: RunDriver): number {
  return b.state.createdAt - a.state.createdAt || (a.runId < b.runId ? 1 : -1);
}
