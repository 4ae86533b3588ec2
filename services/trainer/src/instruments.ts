import { meter } from '@spindle/kit';
import type { StepMetrics } from './domain/metrics.js';

export interface TrainingName {
  run: string;
  model: string;
  objective: string;
}

/** Created after telemetry has started: an instrument made earlier stays silent. */
export function createInstruments() {
  const spindle = meter();
  const loss = spindle.createGauge('spindle.train.loss', { description: 'Loss of the last step' });
  const accuracy = spindle.createGauge('spindle.train.implicit_accuracy', {
    description: 'Share of pairs with a positive logit',
  });
  const errorReal = spindle.createGauge('spindle.train.error_real', {
    description: 'Denoising error on real images',
  });
  const pairs = spindle.createCounter('spindle.train.pairs', {
    unit: '{pair}',
    description: 'Pairs (or images, without an opponent) trained on',
  });
  const seconds = spindle.createHistogram('spindle.train.step.duration', {
    unit: 's',
    description: 'Time of an optimiser step',
  });
  const alarms = spindle.createCounter('spindle.train.alarms', {
    unit: '{alarm}',
    description: 'Signs that a training goes wrong',
  });
  const starved = spindle.createCounter('spindle.train.starved', {
    unit: 's',
    description: 'Time that training waited for images to be drawn',
  });
  return {
    starved(durationSeconds: number, training: Omit<TrainingName, 'objective'>): void {
      starved.add(durationSeconds, {
        'spindle.run': training.run,
        'spindle.model': training.model,
      });
    },
    alarm(kind: string, training: Omit<TrainingName, 'objective'>): void {
      alarms.add(1, { kind, 'spindle.run': training.run, 'spindle.model': training.model });
    },
    stepDone(
      metrics: StepMetrics,
      durationSeconds: number,
      batchSize: number,
      training: TrainingName,
    ): void {
      const { objective } = training;
      const attributes = {
        objective,
        'spindle.run': training.run,
        'spindle.model': training.model,
      };
      loss.record(metrics.loss, attributes);
      errorReal.record(metrics.errorReal, attributes);
      // Plain fine-tuning has no opponent, and so no accuracy.
      if (objective !== 'sft') accuracy.record(metrics.implicitAccuracy, attributes);
      pairs.add(batchSize, attributes);
      seconds.record(durationSeconds, attributes);
    },
  };
}

export type Instruments = ReturnType<typeof createInstruments>;
