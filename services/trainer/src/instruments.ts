import { meter } from '@spindle/kit';
import type { StepMetrics } from './domain/metrics.js';

/** Created after telemetry has started: an instrument made earlier stays silent. */
export function createInstruments() {
  const spindle = meter();
  const loss = spindle.createGauge('spindle.train.loss', { description: 'Loss of the last step' });
  const accuracy = spindle.createGauge('spindle.train.implicit_accuracy', { description: 'Share of pairs with a positive logit' });
  const errorReal = spindle.createGauge('spindle.train.error_real', { description: 'Denoising error on real images' });
  const pairs = spindle.createCounter('spindle.train.pairs', {
    unit: '{pair}',
    description: 'Pairs (or images, without an opponent) trained on',
  });
  const seconds = spindle.createHistogram('spindle.train.step.duration', { unit: 's', description: 'Time of an optimiser step' });
  return {
    stepDone(metrics: StepMetrics, durationSeconds: number, batchSize: number, objective: string): void {
      loss.record(metrics.loss, { objective });
      errorReal.record(metrics.errorReal, { objective });
      if (objective !== 'sft') accuracy.record(metrics.implicitAccuracy, { objective });
      pairs.add(batchSize, { objective });
      seconds.record(durationSeconds, { objective });
    },
  };
}

export type Instruments = ReturnType<typeof createInstruments>;
