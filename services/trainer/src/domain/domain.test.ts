import { create } from '@bufbuild/protobuf';
import {
  LearningRateSchedule,
  LoraSettingsSchema,
  Objective,
  OnDivergence,
  TimestepWeight,
  Precision,
  TrainSettingsSchema,
} from '@spindle/proto';
import { describe, expect, it } from 'vitest';
import { autoBeta, noMargins, readMargins, withMargin, writeMargins } from './auto-beta.js';
import { byShape, DataOrder, dropsCaption, drawPosterior, microBatches, standIn } from './draws.js';
import { epochOrder, normals, philox, uniform } from '@spindle/kit/domain';
import { Guard, saturatedLogit, type WatchedStep } from './guard.js';
import { gatherMetrics, notFinite, saturatedFraction } from './metrics.js';
import { checkSettings, fingerprint, firstDifference, type TrainingSettings } from './settings.js';

const key = { seed: 5n, iteration: 1 };

describe('philox', () => {
  it("gives the words of the authors' known answers", () => {
    const hex = (words: readonly number[]): string =>
      words.map((word) => word.toString(16).padStart(8, '0')).join(' ');
    expect(hex(philox(0n, [0, 0, 0, 0]))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
    const ones = 0xffffffff;
    expect(hex(philox(0xffffffffffffffffn, [ones, ones, ones, ones]))).toBe(
      '408f276d 41c83b0e a20bc7c6 6d5451fd',
    );
    expect(hex(philox(0x299f31d0a4093822n, [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]))).toBe(
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    );
  });

  it('gives uniform and normal numbers of the right shape', () => {
    const count = 4000;
    const values = Array.from({ length: count }, (_, i) =>
      normals(philox(9n, [i, 0, 0, 0])),
    ).flat();
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.04);
    expect(Math.abs(variance - 1)).toBeLessThan(0.05);
    expect(uniform(0, 0)).toBe(0);
    expect(uniform(0xffffffff, 0xffffffff)).toBeLessThan(1);
  });
});

describe('the order of data', () => {
  it('is a permutation of its own in every epoch, iteration and seed', () => {
    const order = [...epochOrder(key, 0, 50)];
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect([...epochOrder(key, 0, 50)]).toEqual(order);
    for (const other of [
      epochOrder(key, 1, 50),
      epochOrder({ ...key, iteration: 2 }, 0, 50),
      epochOrder({ ...key, seed: 6n }, 0, 50),
    ])
      expect([...other]).not.toEqual(order);
  });

  it('shows every element once per epoch, across batches, from any step on', () => {
    const straight = new DataOrder(key, 10, 4);
    const elements = [0, 1, 2, 3, 4]
      .flatMap((step) => straight.batch(step))
      .map((draw) => draw.element);
    expect(new Set(elements.slice(0, 10)).size).toBe(10);
    expect(new Set(elements.slice(10, 20)).size).toBe(10);
    expect(new DataOrder(key, 10, 4).batch(3)).toEqual(straight.batch(3));
    expect(straight.batch(2).map((draw) => draw.epoch)).toEqual([0, 0, 1, 1]);
  });

  it('serves a batch that is larger than the data', () => {
    expect(new DataOrder(key, 3, 8).batch(0).map((draw) => draw.epoch)).toEqual([
      0, 0, 0, 1, 1, 1, 2, 2,
    ]);
  });
});

it('drops the fraction of captions that was asked for', () => {
  const dropped = Array.from({ length: 5000 }, (_, i) => dropsCaption(key, i, 0.1)).filter(
    Boolean,
  ).length;
  expect(dropped / 5000).toBeCloseTo(0.1, 1);
  expect(dropsCaption(key, 3, 0)).toBe(false);
  expect(dropsCaption(key, 3, 1)).toBe(true);
});

it('draws from a posterior by position alone', () => {
  const draw = (position: number): number[] => {
    const mean = Float32Array.of(1, 2, 3);
    drawPosterior(key, position, mean, Float32Array.of(-60, 0, 0));
    return [...mean];
  };
  expect(draw(3)).toEqual(draw(3));
  expect(draw(3)).not.toEqual(draw(4));
  expect(draw(3)[0]).toBe(1);
});

it('cuts a batch into even runs', () => {
  expect(microBatches(alike(7), 3)).toEqual([
    { offset: 0, size: 3, last: false },
    { offset: 3, size: 2, last: false },
    { offset: 5, size: 2, last: true },
  ]);
  expect(microBatches(alike(4), 1)).toEqual([{ offset: 0, size: 4, last: true }]);
  expect(microBatches(alike(5), 4).map(({ size }) => size)).toEqual([2, 1, 1, 1]);
});

const alike = (count: number): number[] => new Array<number>(count).fill(0);

describe('a batch of several shapes', () => {
  it('is cut between shapes, into pieces no larger than alike ones would be', () => {
    const sizes = (shapes: number[], parts: number, ...of: number[]) =>
      microBatches(shapes, parts, ...of).map(({ size }) => size);
    expect(sizes([0, 0, 0, 0, 0, 1, 2, 2], 2)).toEqual([3, 2, 1, 2]);
    expect(sizes([0, 0, 0, 0, 0, 1, 2, 2], 1)).toEqual([5, 1, 2]);
    expect(microBatches([0, 0, 0, 1, 1, 1], 3, 0, 2)).toEqual([
      { offset: 0, size: 1, last: false },
      { offset: 1, size: 1, last: false },
      { offset: 2, size: 1, last: true },
    ]);
    // The second rank's local batch begins within a shape.
    expect(microBatches([0, 0, 0, 1, 1, 1], 1, 1, 3)).toEqual([
      { offset: 2, size: 1, last: false },
      { offset: 3, size: 1, last: true },
    ]);
  });

  it('shows every element once, on one rank, in a micro-batch of its shape', () => {
    for (const shapes of [
      [0, 0, 1, 1, 1, 2, 5],
      [0, 1, 2, 3],
      [0, 0, 0, 0, 0, 0, 0, 0, 7],
    ]) {
      for (const worldSize of [1, 2, 3]) {
        for (const parts of [1, 2, 4]) {
          const ranks = Array.from({ length: worldSize }, (_, rank) =>
            microBatches(shapes, parts, rank, worldSize),
          );
          const elements = ranks
            .flat()
            .flatMap(({ offset, size }) => Array.from({ length: size }, (_, i) => offset + i));
          expect(elements).toEqual(shapes.map((_, i) => i));
          for (const { offset, size } of ranks.flat())
            expect(new Set(shapes.slice(offset, offset + size)).size).toBe(1);
          for (const own of ranks) {
            const local = own.reduce((sum, { size }) => sum + size, 0);
            for (const { size } of own) expect(size).toBeLessThanOrEqual(Math.ceil(local / parts));
            expect(own.filter(({ last }) => last)).toEqual(own.slice(-1));
          }
        }
      }
    }
  });

  it('has its draws side by side by shape, and is otherwise the same batch', () => {
    const draws = new DataOrder(key, 7, 7).batch(0);
    const shapeOf = ({ element }: { element: number }) => element % 3;
    const sorted = byShape(draws, shapeOf);
    expect(sorted.shapes).toEqual([0, 0, 0, 1, 1, 2, 2]);
    expect(sorted.draws.map(shapeOf)).toEqual(sorted.shapes);
    expect(sorted.draws.filter((draw) => shapeOf(draw) === 0)).toEqual(
      draws.filter((draw) => shapeOf(draw) === 0),
    );
    expect([...sorted.draws].sort((a, b) => a.position - b.position)).toEqual(draws);
    expect(byShape(draws, () => 0).draws).toEqual(draws);
  });
});

it('cuts a batch so that every element is computed once, in order, by one of the ranks', () => {
  for (let batchSize = 1; batchSize <= 9; batchSize++) {
    for (let worldSize = 1; worldSize <= 4; worldSize++) {
      for (let parts = 1; parts <= 3; parts++) {
        const ranks = Array.from({ length: worldSize }, (_, rank) =>
          microBatches(alike(batchSize), parts, rank, worldSize),
        );
        const elements = ranks
          .flat()
          .flatMap(({ offset, size }) => Array.from({ length: size }, (_, i) => offset + i));
        expect(elements).toEqual(Array.from({ length: batchSize }, (_, i) => i));
        for (const own of ranks)
          expect(own.map(({ last }) => last)).toEqual(own.map((_, i) => i === own.length - 1));
        const sizes = ranks.map((own) => own.reduce((sum, { size }) => sum + size, 0));
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      }
    }
  }
});

it('gathers metrics over micro-batches', () => {
  const part = (loss: number) => ({
    loss,
    loserScale: loss / 2,
    errorReal: [1, 3],
    errorGenerated: [5, 2],
    opponentErrorReal: [2, 1],
    opponentErrorGenerated: [4, 4],
  });
  expect(gatherMetrics([part(0.5), part(0.25)])).toEqual({
    loss: 0.75,
    errorReal: 2,
    errorGenerated: 3.5,
    opponentErrorReal: 1.5,
    opponentErrorGenerated: 4,
    implicitAccuracy: 0.5,
    loserScale: 0.375,
  });
  const sft = gatherMetrics([
    {
      loss: 1,
      loserScale: 0,
      errorReal: [1],
      errorGenerated: [],
      opponentErrorReal: [],
      opponentErrorGenerated: [],
    },
  ]);
  expect(sft).toMatchObject({ implicitAccuracy: 0, errorGenerated: 0 });
  expect(notFinite(sft)).toBeNull();
  expect(notFinite({ ...sft, loss: Number.NaN })).toBe('loss is NaN');
});

describe('auto-beta', () => {
  const averaged = (margins: readonly number[]) => margins.reduce(withMargin, noMargins);

  it('leaves the mean pair of a steady training the slope that was asked for', () => {
    const beta = autoBeta(1e6, 0.2, averaged(Array<number>(50).fill(0.004)));
    // Slope of softplus(-logit) at the logit beta * margin, by differences.
    const loss = (logit: number) => Math.log1p(Math.exp(-logit));
    const h = 1e-6;
    const slope = (loss(beta * 0.004 - h) - loss(beta * 0.004 + h)) / (2 * h);
    expect(slope).toBeCloseTo(0.2, 6);
  });
  it('never raises beta, and waits for a margin', () => {
    expect(autoBeta(100, 0.2, averaged([1e-9]))).toBe(100);
    expect(autoBeta(100, 0.2, averaged([-3]))).toBe(100);
    expect(autoBeta(100, 0.2, noMargins)).toBe(100);
    expect(autoBeta(100, 0, averaged([3]))).toBe(100);
  });
  it('goes by the mean of the steps, late ones a little more, the same after a checkpoint', () => {
    const average = averaged([0.1, 0.2]);
    const mean = (0.99 * 0.1 + 0.2) / 1.99;
    expect(autoBeta(1e6, 0.25, average)).toBeCloseTo(Math.log(3) / mean, 9);
    expect(readMargins(writeMargins(average))).toEqual(average);
    expect(readMargins(undefined)).toEqual(noMargins);
  });
});

describe('the guard', () => {
  const calm = (step: number, change: Partial<WatchedStep> = {}): WatchedStep => ({
    step,
    loss: 0.6 + (step % 3) / 50,
    gradNorm: 1 + (step % 4) / 10,
    errorReal: 0.1 + (step % 2 ? 0.01 : -0.0099),
    opponentErrorReal: 0.1,
    saturated: 0,
    ...change,
  });
  const watch = (objective: Objective, steps: readonly WatchedStep[]) => {
    const guard = new Guard(objective);
    return steps.flatMap((step) => guard.observe(step));
  };
  const calmSteps = (count: number) => Array.from({ length: count }, (_, i) => calm(i + 1));
  const kinds = (alarms: readonly { kind: string; step: number; badSince: number | null }[]) =>
    alarms.map(({ kind, step, badSince }) => [kind, step, badSince]);

  it('is silent while all is well', () => {
    expect(watch(Objective.SPIN_LOGISTIC, calmSteps(60))).toEqual([]);
  });
  it('raises an alarm once, and again when its cause comes back', () => {
    const zero = { loss: 0 };
    const alarms = watch(Objective.SPIN_HINGE, [
      calm(1),
      calm(2, zero),
      calm(3, zero),
      calm(4),
      calm(5, zero),
    ]);
    expect(kinds(alarms)).toEqual([
      ['loss_zero', 2, 1],
      ['loss_zero', 5, 4],
    ]);
  });
  it.each([
    [Objective.SPIN_LOGISTIC, Math.LN2],
    [Objective.DPO, Math.LN2],
    [Objective.SPIN_HINGE, 1],
    [Objective.SPIN_IPO, 0.25],
  ])('sees that nothing is learnt, after the warm-up (%s)', (objective, equal) => {
    const still = (count: number, from = 1) =>
      Array.from({ length: count }, (_, i) => calm(from + i, { loss: equal - 1e-6 }));
    const guard = new Guard(objective, 7);
    const alarms = still(60).flatMap((step) => guard.observe(step));
    // No checkpoint is worse for it: it is a warning, whatever is done on divergence.
    expect(kinds(alarms)).toEqual([['nothing_learnt', 57, null]]);
    expect(alarms[0]?.message).toContain('train.learning_rate');
    const learns = [...still(49), calm(50, { loss: equal - 0.001 }), ...still(49, 51)];
    expect(watch(objective, learns)).toEqual([]);
  });
  it('sees spikes against the steps before, once there are enough of them', () => {
    expect(watch(Objective.SFT, [...calmSteps(5), calm(6, { loss: 60, gradNorm: 90 })])).toEqual(
      [],
    );
    const alarms = watch(Objective.SFT, [
      ...calmSteps(12),
      calm(13, { loss: 60 }),
      calm(14, { gradNorm: 90 }),
      calm(15),
    ]);
    expect(kinds(alarms)).toEqual([
      ['loss_spike', 13, 12],
      ['norm_spike', 14, 13],
    ]);
    expect(alarms[0]?.message).toMatch(
      /^the loss is 9\d\.\d times the median of the 12 steps before \(60\.00\): a smaller train\.learning_rate/,
    );
    expect(alarms[1]?.message).toMatch(/before \(90\.00\): a smaller train\.learning_rate/);
  });
  it('sees saturated pairs where that means something', () => {
    const steps = [calm(1), calm(2, { saturated: 0.95 })];
    expect(kinds(watch(Objective.SPIN_LOGISTIC, steps))).toEqual([['saturated', 2, 1]]);
    expect(kinds(watch(Objective.DPO, steps))).toEqual([['saturated', 2, 1]]);
    expect(watch(Objective.SPIN_IPO, steps)).toEqual([]);
  });
  it("sees the error on real images stay above the opponent's, and lays the blame on the first of those steps", () => {
    const worse = Array.from({ length: 50 }, (_, i) =>
      calm(i + 1, { errorReal: 0.11 + (i % 2) * 0.001 }),
    );
    const alarms = watch(Objective.SPIN_LOGISTIC, worse);
    expect(kinds(alarms)).toEqual([['winner_worse', 20, 0]]);
    expect(alarms[0]?.message).toContain('(0.1105 against 0.1000)');
    expect(watch(Objective.SFT, worse)).toEqual([]);
  });
  it('counts pairs whose logit is past the limit', () => {
    const part = { loss: 1, loserScale: 1, errorReal: [0.1, 0.1], errorGenerated: [0.2, 0.12] };
    const step = [{ ...part, opponentErrorReal: [0.1, 0.1], opponentErrorGenerated: [0.1, 0.1] }];
    // Logits of beta / 2 times 0.1 and 0.02.
    expect(saturatedFraction(step, 600, saturatedLogit)).toBe(0.5);
    expect(saturatedFraction(step, 300, saturatedLogit)).toBe(0);
    expect(
      saturatedFraction(
        [{ ...part, errorGenerated: [], opponentErrorReal: [], opponentErrorGenerated: [] }],
        300,
        20,
      ),
    ).toBe(0);
  });
});

describe('settings', () => {
  const settings: TrainingSettings = {
    ...create(TrainSettingsSchema, {
      schedule: LearningRateSchedule.LINEAR,
      steps: 10,
      batchSize: 4,
      gradientAccumulation: 0,
      learningRate: 1e-4,
      warmupSteps: 0,
      beta: 1000,
      adamBeta1: 0.9,
      adamBeta2: 0.999,
      adamEpsilon: 1e-8,
      weightDecay: 0,
      maxGradNorm: 1,
      emaDecay: 0,
      activationCheckpointing: false,
      captionDropout: 0,
      checkpointSteps: 5,
      keepCheckpoints: 0,
      seed: 1n,
      samplePosterior: false,
      previousShare: 0,
      minSnrGamma: 0,
      autoBetaSlope: 0,
      emaApart: false,
      maxRollbacks: 3,
    }),
    objective: Objective.SPIN_LOGISTIC,
    ...{ iteration: 1, firstStep: 0, lastStep: 10 },
  };
  it('may change where no result depends on them, and nowhere else', () => {
    const kept = fingerprint(settings, {});
    const elsewhere = {
      ...settings,
      activationCheckpointing: true,
      checkpointSteps: 7,
      keepCheckpoints: 9,
    };
    expect(firstDifference(kept, fingerprint(elsewhere, {}))).toBeNull();
    expect(firstDifference(kept, fingerprint({ ...elsewhere, emaDecay: 0.9 }, {}))).toBe(
      'emaDecay: expected 0, got 0.9',
    );
  });
  it('say which steps are taken where those are not all, and of which there are none', () => {
    const part = { ...settings, firstStep: 4, lastStep: 8 };
    expect(firstDifference(fingerprint(settings, {}), fingerprint(part, {}))).toBe(
      'firstStep: expected nothing, got 4',
    );
    expect(checkSettings({ ...settings, lastStep: 0 }).lastStep).toBe(10);
    for (const change of [{ firstStep: 8 }, { lastStep: 11 }])
      expect(() => checkSettings({ ...part, ...change })).toThrow(
        /first_step and last_step: expected steps of 10 in ascending order, got/,
      );
  });
  it('fill in what is empty and keep two checkpoints at least', () => {
    expect(checkSettings(settings)).toMatchObject({
      gradientAccumulation: 1,
      keepCheckpoints: 2,
      onDivergence: OnDivergence.WARN,
    });
  });
  it.each<[Partial<TrainingSettings>, string]>([
    [{ steps: 0 }, 'settings.steps: expected a number of at least 1, got 0'],
    [
      { gradientAccumulation: 5 },
      'settings.gradient_accumulation: expected at most batch_size (4), got 5',
    ],
    [{ learningRate: Number.NaN }, 'settings.learning_rate: expected a positive number, got NaN'],
    [{ beta: 0 }, 'settings.beta: expected a positive number, got 0'],
    [{ adamBeta2: 1 }, 'settings.adam_beta2: expected a number in [0, 1), got 1'],
    [{ captionDropout: 1.5 }, 'settings.caption_dropout: expected a number from 0 to 1, got 1.5'],
    [{ safeguard: 2 }, 'settings.safeguard: expected a number from 0 to 1, got 2'],
    [
      { autoBetaSlope: 0.5 },
      'settings.auto_beta_slope: expected a number from 0 to below 0.5, got 0.5',
    ],
    [{ minSnrGamma: 5 }, 'settings.min_snr_gamma: expected nothing for this objective, got 5'],
    [
      { objective: Objective.SFT, safeguard: 0.5 },
      'settings.safeguard: expected nothing for this objective, got 0.5',
    ],
    [
      { objective: Objective.SFT, timestepsPerPair: 4 },
      'settings.timesteps_per_pair and timestep_weight: expected 1 and constant for this ' +
        'objective, which has no pairs, got 4 and constant',
    ],
    [{ emaApart: true }, 'settings.ema_apart: expected an ema_decay, got 0'],
    [
      { lora: create(LoraSettingsSchema, { rank: 0, alpha: 1, targets: ['to_q'] }) },
      'settings.lora.rank: expected a number of at least 1, got 0',
    ],
    [
      { lora: create(LoraSettingsSchema, { rank: 4, alpha: 0, targets: ['to_q'] }) },
      'settings.lora.alpha: expected a positive number, got 0',
    ],
    [
      { lora: create(LoraSettingsSchema, { rank: 4, alpha: 4, targets: [] }) },
      'settings.lora.targets: expected at least one layer, got none',
    ],
    [
      { weightDecay: Infinity },
      'settings.weight_decay: expected a number of at least 0, got Infinity',
    ],
  ])('refuse %j', (change, message) => {
    expect(() => checkSettings({ ...settings, ...change })).toThrow(message);
  });
  it('are told apart by the same texts as in checkpoints of before', () => {
    const full = {
      ...settings,
      precision: Precision.FLOAT32,
      safeguard: 0.5,
      lora: create(LoraSettingsSchema, { rank: 4, alpha: 8, targets: ['to_q'] }),
    };
    expect(fingerprint(full, { init: '/m/unet' })).toEqual({
      $typeName: 'spindle.v1.TrainSettings',
      steps: '10',
      batchSize: '4',
      learningRate: '0.0001',
      schedule: 'linear',
      warmupSteps: '0',
      beta: '1000',
      adamBeta1: '0.9',
      adamBeta2: '0.999',
      adamEpsilon: '1e-8',
      weightDecay: '0',
      maxGradNorm: '1',
      emaDecay: '0',
      captionDropout: '0',
      seed: '1',
      precision: '2',
      samplePosterior: 'false',
      minSnrGamma: '0',
      autoBetaSlope: '0',
      previousShare: '0',
      emaApart: 'false',
      safeguard: '0.5',
      lora: '{"rank":4,"alpha":8,"targets":["to_q"]}',
      objective: 'spin_logistic',
      iteration: '1',
      init: '/m/unet',
    });
    expect(fingerprint(settings, {})).toMatchObject({ safeguard: 'null', lora: 'null' });
    const later = { ...settings, timestepsPerPair: 4, timestepWeight: TimestepWeight.PAPER };
    expect(fingerprint(checkSettings(settings), {})).not.toHaveProperty('timestepsPerPair');
    expect(fingerprint(checkSettings(later), {})).toMatchObject({
      ...{ timestepsPerPair: '4', timestepWeight: 'paper' },
    });
  });
  it('name the first difference to a checkpoint, but may write checkpoints at other steps', () => {
    const kept = fingerprint(settings, { init: 'a' });
    expect(
      firstDifference(kept, fingerprint({ ...settings, checkpointSteps: 9 }, { init: 'a' })),
    ).toBeNull();
    expect(firstDifference(kept, fingerprint({ ...settings, beta: 5 }, { init: 'a' }))).toBe(
      'beta: expected 1000, got 5',
    );
    expect(firstDifference(kept, fingerprint(settings, { init: 'b' }))).toBe(
      'init: expected a, got b',
    );
  });
});

describe('a lost image', () => {
  const order = new DataOrder({ seed: 3n, iteration: 1 }, 6, 4);

  it('has the nearest draw before it as its stand-in, at its own place', () => {
    const [first, second, third] = [0, 1, 2].map((position) => order.at(position));
    const has = (element: number) => element === first!.element;
    expect(standIn(third!, order, 3, has)).toEqual({ ...first!, position: 2 });
    expect(standIn(second!, order, 3, has)).toEqual({ ...first!, position: 1 });
  });

  it('has one after it where none comes before, and none of beyond the last step', () => {
    const [first, last] = [order.at(0), order.at(3)];
    expect(standIn(first, order, 1, (element) => element === last.element)).toEqual({
      ...last,
      position: 0,
    });
    const beyond = order.at(4);
    expect(standIn(first, order, 1, (element) => element === beyond.element)).toEqual(first);
  });
});
