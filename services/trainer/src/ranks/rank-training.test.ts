import type { TrainBatchDto } from '@spindle/native';
import { expect, it } from 'vitest';
import type { Dataset } from '../dataset.js';
import type { MicroBatch } from '../domain/draws.js';
import type { TrainingSettings } from '../domain/settings.js';
import type { TrainingSession } from '../engine.js';
import { RankTraining } from './rank-training.js';

function training(fails: number[] = []) {
  const log: string[] = [];
  const dataset = {
    has: () => true,
    size: 8,
    shapeOf: () => 0,
    batch: async (
      step: number,
      _draws: unknown,
      { offset }: MicroBatch,
    ): Promise<TrainBatchDto> => {
      log.push(`read ${step}:${offset}`);
      if (fails.pop() === step) throw new Error('the shard is gone');
      return { step, offset } as TrainBatchDto;
    },
  } as unknown as Dataset;
  const session = {
    prefetch: async ({ step, offset }: TrainBatchDto) =>
      void log.push(`prefetch ${step}:${offset}`),
    accumulate: async ({ step, offset, beta }: TrainBatchDto) => {
      log.push(`train ${step}:${offset} ${beta ?? 'null'}`);
      return { errors: null, phases: [] };
    },
  } as unknown as TrainingSession;
  const settings = {
    seed: 1n,
    iteration: 0,
    batchSize: 4,
    gradientAccumulation: 2,
    steps: 2,
    lastStep: 2,
  } as unknown as TrainingSettings;
  return { log, own: new RankTraining(session, { dataset, incoming: null }, settings) };
}
const signal = new AbortController().signal;

it('reads the first micro-batch of the next step ahead, once, and none behind the last step', async () => {
  const { log, own } = training();
  await own.gradients(0, 5, signal);
  await own.prefetch(1);
  expect(log.splice(0)).toEqual([
    'read 0:0',
    'train 0:0 5',
    'read 0:2',
    'train 0:2 5',
    'read 1:0',
    'prefetch 1:0',
  ]);
  await own.gradients(1, 6, signal);
  await own.prefetch(2);
  expect(log).toEqual(['train 1:0 6', 'read 1:2', 'train 1:2 6']);
});

it('reads again, and says so, what could not be read ahead', async () => {
  const { log, own } = training([1, 1]);
  await own.prefetch(1);
  await expect(own.gradients(1, 0, signal)).rejects.toThrow('the shard is gone');
  expect(log).toEqual(['read 1:0', 'read 1:0']);
});
