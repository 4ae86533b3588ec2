import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import type { TrainStepMetrics } from '../domain/state.js';
import { MetricsLog } from './metrics-log.js';

const folder = await mkdtemp(join(tmpdir(), 'spindle-metrics-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

const metrics = (step: number): TrainStepMetrics => ({
  step,
  loss: 0.5,
  errorReal: 0.1,
  errorGenerated: 0.2,
  opponentErrorReal: 0.1,
  opponentErrorGenerated: 0.1,
  implicitAccuracy: 0.75,
  gradNorm: 1,
  learningRate: 1e-4,
  beta: 2000,
  seconds: 1,
});

it('keeps what could not be written, and writes it with the next line', async () => {
  // A folder that is not there fails as a full disk does.
  const directory = join(folder, 'later');
  const log = await MetricsLog.open(directory);
  log.add('spin1', metrics(1));
  await log.flush();
  await mkdir(directory);
  log.add('spin1', metrics(2));
  await log.flush();
  const lines = (await readFile(join(directory, 'metrics.jsonl'), 'utf8')).split('\n').filter((line) => line !== '');
  expect(lines.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([1, 2]);
  expect((await MetricsLog.open(directory)).curves()['spin1']?.map(({ step }) => step)).toEqual([1, 2]);
});
