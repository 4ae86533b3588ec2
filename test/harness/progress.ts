import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from './wait.js';

/**
 * A moment of a run, seen from its files: so many results of a stage, or a checkpoint from a step
 * on. Once it has come it stays true, so that a busy machine that looks late does not wait for what
 * is over: checkpoints go when their training has its result.
 */
export type Moment = { results: string; atLeast: number } | { checkpoint: string; step: number };

export function describeMoment(moment: Moment): string {
  return 'results' in moment
    ? `${moment.atLeast} results of ${moment.results}`
    : `step ${moment.step} of ${moment.checkpoint}`;
}

export function reached(
  artifacts: string,
  runId: string,
  moment: Moment,
  timeoutMs?: number,
): Promise<true> {
  return until(
    describeMoment(moment),
    async () => {
      if ('results' in moment)
        return (
          (await names(join(artifacts, 'store/results', runId, moment.results))).length >=
            moment.atLeast || undefined
        );
      const steps = (
        await names(join(artifacts, 'store/checkpoints', runId, moment.checkpoint))
      ).map((name) => Number(/^step-(\d+)\.json$/.exec(name)?.[1] ?? -1));
      const trained = join(artifacts, 'store/results', runId, `${moment.checkpoint}.json`);
      return steps.some((step) => step >= moment.step) || existsSync(trained) || undefined;
    },
    timeoutMs,
  );
}

async function names(folder: string): Promise<string[]> {
  return readdir(folder).then(
    (all) => all.filter((name) => name.endsWith('.json')),
    // Nothing was finished yet.
    () => [],
  );
}
