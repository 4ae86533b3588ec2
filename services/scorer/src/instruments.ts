import { meter } from '@spindle/kit';
import type { JobInstruments } from '@spindle/mesh';

/** Created after telemetry has started: an instrument made earlier stays silent. */
export function createInstruments(): JobInstruments {
  const spindle = meter();
  const images = spindle.createCounter('spindle.scorer.images', {
    unit: '{image}',
    description: 'Images judged',
  });
  const seconds = spindle.createHistogram('spindle.scorer.job.duration', {
    unit: 's',
    description: 'Time from taking a job to its result',
  });
  const failures = spindle.createCounter('spindle.scorer.job.failures', {
    unit: '{job}',
    description: 'Jobs that ended in an error',
  });
  return {
    jobDone(_kind: string, durationSeconds: number, items: number): void {
      images.add(items);
      seconds.record(durationSeconds);
    },
    jobFailed(_kind: string, code: string): void {
      failures.add(1, { 'error.type': code });
    },
  };
}
