import { meter } from '@spindle/kit';

/** Created after telemetry has started: an instrument made earlier stays silent. */
export function createInstruments() {
  const spindle = meter();
  const seconds = spindle.createHistogram('spindle.evaluator.report.duration', {
    unit: 's',
    description: 'Time to write a report',
  });
  const files = spindle.createCounter('spindle.evaluator.report.files', {
    unit: '{file}',
    description: 'Files written',
  });
  return {
    reportWritten(durationSeconds: number, count: number): void {
      seconds.record(durationSeconds);
      files.add(count);
    },
  };
}

export type Instruments = ReturnType<typeof createInstruments>;
