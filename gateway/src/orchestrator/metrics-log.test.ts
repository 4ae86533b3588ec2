import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { everyBitFlip } from '@spindle/kit/testing';
import { afterAll, expect, it } from 'vitest';
import type { StepNumbers } from '@spindle/proto';
import { readEvent } from '../tensorboard/event.js';
import { readRecords } from '../tensorboard/record-file.js';
import { MetricsLog } from './metrics-log.js';
import { toStep } from './wire.js';

const folder = await mkdtemp(join(tmpdir(), 'spindle-metrics-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

const createdAt = 1_700_000_000_000;

const metrics = (step: number): StepNumbers => ({
  step,
  loss: 0.5,
  errorReal: 0.1,
  errorGenerated: 0.2,
  opponentErrorReal: 0.1,
  opponentErrorGenerated: 0.1,
  implicitAccuracy: 0.75,
  loserScale: 1,
  gradNorm: 1,
  learningRate: 1e-4,
  beta: 2000,
  seconds: 1,
});

it('keeps what could not be written, and writes it with the next line', async () => {
  // A folder that is not there fails as a full disk does.
  const directory = join(folder, 'later');
  const log = await MetricsLog.open(directory, createdAt);
  log.add('spin1', metrics(1));
  await log.flush();
  await mkdir(directory);
  log.add('spin1', metrics(2));
  await log.flush();
  const lines = (await readFile(join(directory, 'metrics.jsonl'), 'utf8'))
    .split('\n')
    .filter((line) => line !== '');
  expect(lines.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([1, 2]);
  expect(
    (await MetricsLog.open(directory, createdAt)).curves()['spin1']?.map(({ step }) => step),
  ).toEqual([1, 2]);
});

it('writes the same lines as a table and as events, and goes on after a restart', async () => {
  const directory = join(folder, 'table');
  await mkdir(directory);
  const log = await MetricsLog.open(directory, createdAt);
  log.add('spin1', metrics(1));
  log.add('spin1', { ...metrics(2), loss: Number.NaN });
  await log.flush();
  const again = await MetricsLog.open(directory, createdAt);
  again.add('spin1', metrics(2));
  again.add('spin2', metrics(1));
  await again.flush();
  expect((await readFile(join(directory, 'metrics.csv'), 'utf8')).split('\n')).toEqual([
    'model,step,loss,error_real,error_generated,opponent_error_real,opponent_error_generated,implicit_accuracy,loser_scale,grad_norm,learning_rate,beta,seconds',
    'spin1,1,0.5,0.1,0.2,0.1,0.1,0.75,1,1,0.0001,2000,1',
    'spin1,2,,0.1,0.2,0.1,0.1,0.75,1,1,0.0001,2000,1',
    'spin2,1,0.5,0.1,0.2,0.1,0.1,0.75,1,1,0.0001,2000,1',
    '',
  ]);
  const events = async (model: string) =>
    readRecords(
      await readFile(
        join(directory, 'tensorboard', model, 'events.out.tfevents.1700000000.spindle'),
      ),
    )
      .records.slice(1)
      .map((event) => readEvent(event).step);
  expect([await events('spin1'), await events('spin2')]).toEqual([[1, 2], [1]]);
});

it('reads what an older version kept fewer numbers of', async () => {
  const directory = join(folder, 'older');
  await mkdir(directory);
  const { loserScale: _new, ...kept } = metrics(1);
  const line = JSON.stringify({ model: 'spin1', ...kept, loss: null });
  await writeFile(join(directory, 'metrics.jsonl'), `${line}\n`);
  const log = await MetricsLog.open(directory, createdAt);
  log.add('spin1', metrics(2));
  await log.flush();
  expect((await readFile(join(directory, 'metrics.csv'), 'utf8')).split('\n').slice(1)).toEqual([
    'spin1,1,,0.1,0.2,0.1,0.1,0.75,,1,0.0001,2000,1',
    'spin1,2,0.5,0.1,0.2,0.1,0.1,0.75,1,1,0.0001,2000,1',
    '',
  ]);
  const [older] = (log.curves()['spin1'] ?? []).map(toStep);
  expect(older).toMatchObject({ step: 1, loss: Number.NaN, loserScale: Number.NaN, beta: 2000 });
});

it('has the later numbers of steps that a rollback took again, in every table', async () => {
  const directory = join(folder, 'rewound');
  await mkdir(directory);
  const log = await MetricsLog.open(directory, createdAt);
  for (const step of [1, 2, 3]) log.add('spin1', metrics(step));
  log.rewind('spin1', 1);
  expect(log.curves()['spin1']?.map(({ step }) => step)).toEqual([1]);
  log.add('spin1', { ...metrics(2), loss: 0.25 });
  await log.flush();
  expect(
    (await readFile(join(directory, 'metrics.csv'), 'utf8'))
      .split('\n')
      .map((line) => line.split(',').slice(0, 3).join()),
  ).toEqual(['model,step,loss', 'spin1,1,0.5', 'spin1,2,0.25', '']);
  const { records } = readRecords(
    await readFile(join(directory, 'tensorboard/spin1/events.out.tfevents.1700000000.spindle')),
  );
  expect(records.slice(-2).map(readEvent)).toEqual([
    { step: 2, restart: true },
    { step: 2, restart: false },
  ]);
  // Another gateway knows nothing of the steps that were taken back, and takes their new numbers.
  const again = await MetricsLog.open(directory, createdAt);
  again.add('spin1', { ...metrics(3), loss: 0.125 });
  await again.flush();
  expect(
    (await readFile(join(directory, 'metrics.jsonl'), 'utf8')).trim().split('\n'),
  ).toHaveLength(3);
  const curves = (await MetricsLog.open(directory, createdAt)).curves();
  expect(curves['spin1']?.map(({ step, loss }) => [step, loss])).toEqual([
    [1, 0.5],
    [2, 0.25],
    [3, 0.125],
  ]);
});

it('passes over damaged lines: a report is made of whole ones', async () => {
  const directory = join(folder, 'damaged');
  await mkdir(directory);
  const line = JSON.stringify({ model: 'spin1', ...metrics(1) });
  const damaged = [
    line.replace('learningRate', 'learninoRate'),
    line.replace('"step":1', '"stfp":1'),
    line.replace('"loss":0.5', '"loss":"0.5"'),
    line.replace('spin1', 'spjn1'),
    '7',
    'null',
    line.slice(0, 40),
  ];
  const whole = JSON.stringify({ model: 'spin1', ...metrics(2), loss: null });
  await writeFile(join(directory, 'metrics.jsonl'), [...damaged, whole, ''].join('\n'));
  const { spin1, ...others } = (await MetricsLog.open(directory, createdAt)).curves();
  expect(spin1?.map(({ step }) => step)).toEqual([2]);
  expect(others).toEqual({});
});

it('believes no line with a flipped bit, and brings back what is damaged of the file', async () => {
  const directory = join(folder, 'flipped');
  const file = join(directory, 'metrics.jsonl');
  await mkdir(directory);
  const log = await MetricsLog.open(directory, createdAt);
  log.add('spin1', metrics(2));
  log.add('spin1', metrics(1));
  await log.flush();
  await log.restore(new Map());
  const whole = await readFile(file, 'utf8');
  // Else what is damaged is taken from there.
  await rm(join(directory, 'metrics.csv'));
  const [line = ''] = whole.split('\n');
  let believed = 0;
  for (const damaged of everyBitFlip(line)) {
    await writeFile(file, `${damaged}\n`);
    const { spin1, ...others } = (await MetricsLog.open(directory, createdAt)).curves();
    expect(others).toEqual({});
    // An escape may say the same letter; nothing else may be believed.
    if (spin1)
      expect([believed++, ...spin1]).toEqual([expect.anything(), log.curves()['spin1']?.[0]]);
  }
  expect(believed).toBeLessThan(line.length / 10);
  await log.restore(new Map());
  expect(await readFile(file, 'utf8')).toBe(whole);
  expect(whole.split('\n').map((one) => one.slice(0, 26))).toEqual([
    '{"model":"spin1","step":1,',
    '{"model":"spin1","step":2,',
    '',
  ]);
});
