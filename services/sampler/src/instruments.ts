import { meter } from '@spindle/kit';
import type { JobInstruments } from '@spindle/mesh';

/** Created after telemetry has started: an instrument made earlier stays silent. */
export function createInstruments(): JobInstruments {
  const spindle = meter();
  const images = spindle.createCounter('spindle.sampler.images', {
    unit: '{image}',
    description: 'Images encoded or drawn',
  });
  const rejected = spindle.createCounter('spindle.sampler.rejected', {
    unit: '{image}',
    description: 'Images that could not be read',
  });
  const seconds = spindle.createHistogram('spindle.sampler.job.duration', {
    unit: 's',
    description: 'Time from taking a job to its result',
  });
  const failures = spindle.createCounter('spindle.sampler.job.failures', {
    unit: '{job}',
    description: 'Jobs that ended in an error',
  });
  return {
    jobDone(kind: string, durationSeconds: number, items: number, rejectedItems: number): void {
      images.add(items, { kind });
      if (rejectedItems > 0) rejected.add(rejectedItems);
      seconds.record(durationSeconds, { kind });
    },
    jobFailed(kind: string, code: string): void {
      failures.add(1, { kind, 'error.type': code });
    },
  };
}
