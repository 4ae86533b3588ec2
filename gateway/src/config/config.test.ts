import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { generatedFiles } from './generate.js';
import { loadRunConfig } from './load.js';
import { dpoTraining, evaluationSampling, sftTraining, spinTraining } from './resolve.js';
import { forIteration } from '../domain/per-iteration.js';

const folder = mkdtempSync(join(tmpdir(), 'spindle-config-'));
const smallest = 'model: ./m\ndata:\n  path: ./d\n';
const judged =
  'evaluation: {prompts: p.txt, metrics: [{name: pick, kind: pickscore, model: ./j}]}\n';

function load(text: string, name = 'run.yaml'): ReturnType<typeof loadRunConfig> {
  const file = join(folder, name);
  writeFileSync(file, text);
  return loadRunConfig(file);
}

describe('a run config', () => {
  it('needs a model and data only', () => {
    const config = load(smallest);
    expect(config.train).toMatchObject({
      steps: 500,
      batch_size: 32,
      learning_rate: 2e-5,
      schedule: 'linear',
      adam_beta2: 0.999,
    });
    expect(config.sampling).toMatchObject({ steps: 50, guidance_scale: 7.5, eta: 0 });
    expect(config).toMatchObject({
      iterations: 3,
      precision: 'auto',
      max_missing: 0.05,
      objective: { loss: 'logistic', beta: 2000 },
    });
  });

  it('means paths beside itself', () => {
    const config = load(
      `${smallest}evaluation:\n  prompts: p.txt\n  metrics: [{name: pick, kind: clip, model: ../clip}]\n`,
    );
    expect(config.model).toBe(join(folder, 'm'));
    expect(config.evaluation?.prompts).toBe(join(folder, 'p.txt'));
    expect(config.evaluation?.metrics[0]?.model).toBe(join(folder, '..', 'clip'));
  });

  it('may be JSON', () => {
    expect(
      load(JSON.stringify({ model: 'm', data: { path: 'd' }, iterations: 1 }), 'run.json')
        .iterations,
    ).toBe(1);
  });

  it('takes baselines as a list or as an object', () => {
    const list = load(`${smallest}baselines:\n  - sft:\n      steps: 300\n`);
    const object = load(`${smallest}baselines:\n  sft:\n    steps: 300\n`);
    expect(list.baselines).toEqual(object.baselines);
    expect(sftTraining(list)).toMatchObject({ steps: 300, batch_size: 32 });
    expect(sftTraining(load(smallest))).toBeUndefined();
  });

  it('gives one value per iteration, the last one repeating', () => {
    expect([1, 2, 3].map((k) => forIteration([4, 3], k))).toEqual([4, 3, 3]);
    expect(forIteration(5, 2)).toBe(5);
  });

  it('takes a value per iteration for what the paper changes between them', () => {
    const config = load(
      `${smallest}train: {steps: [50, 500, 200], warmup_steps: 200, schedule: [linear, cosine], ` +
        'learning_rate: [2.0e-5, 2.0e-5, 5.0e-8], batch_size: [2048, 1024]}\n' +
        'objective: {beta: [2000, 5000]}\nbaselines: {sft: {}}\n',
    );
    expect([1, 2, 3].map((k) => spinTraining(config, k))).toMatchObject([
      { ...{ steps: 50, warmup_steps: 200, schedule: 'linear', batch_size: 2048 }, beta: 2000 },
      { ...{ steps: 500, warmup_steps: 200, schedule: 'cosine', batch_size: 1024 }, beta: 5000 },
      { ...{ steps: 200, learning_rate: 5e-8, schedule: 'cosine', batch_size: 1024 }, beta: 5000 },
    ]);
    expect(sftTraining(config)).toMatchObject({ steps: 50, learning_rate: 2e-5 });
  });

  it('evaluates with its own settings where it has some', () => {
    const config = load(
      `${smallest}sampling: {steps: 20, images_per_prompt: 4}\nevaluation: {prompts: p, sampling: {guidance_scale: 3}}\n`,
    );
    expect(evaluationSampling(config)).toMatchObject({
      steps: 20,
      guidance_scale: 3,
      images_per_prompt: 1,
    });
  });
});

describe('a wrong run config is refused in one sentence', () => {
  it.each([
    [
      'an unknown key',
      `${smallest}train:\n  stepz: 3\n`,
      'run.yaml:5: train.stepz: unknown key; did you mean "steps"?',
    ],
    [
      'an unknown key in a list',
      `${smallest}baselines:\n  - sft:\n      learning_rte: 3\n`,
      'run.yaml:6: baselines[0].sft.learning_rte: unknown key; did you mean "learning_rate"?',
    ],
    [
      'a value out of range',
      `${smallest}iterations: 0\n`,
      'iterations: expected at least 1, got 0',
    ],
    [
      'an integer that cannot be held exactly',
      `${smallest}seed: 9007199254740993\n`,
      /seed: expected at most 9007199254740991, got \d+$/,
    ],
    [
      'a value of another kind',
      `${smallest}precision: fp16\n`,
      'precision: expected one of "auto", "float32", "bfloat16", got "fp16"',
    ],
    ['a missing key', 'model: m\n', 'data'],
    [
      'a batch that does not divide',
      `${smallest}train: {gradient_accumulation: 5}\n`,
      'train.gradient_accumulation: expected a divisor of train.batch_size 32, got 5.',
    ],
    [
      'more values than iterations',
      `${smallest}objective: {beta: [1, 2, 3, 4]}\n`,
      'objective.beta: expected at most 3 values (iterations), got 4.',
    ],
    [
      'a judge of pairs that is none of the metrics',
      `${smallest}objective: {keep_if: {metric: pick}}\n`,
      'objective.keep_if.metric: expected one of evaluation.metrics, got "pick"',
    ],
    [
      'a best step where none is judged',
      `${smallest}train: {keep: best}\n`,
      'train.keep: expected "last" without train.judge_every, got "best".',
    ],
    [
      'a best step of a baseline that is not judged',
      `${smallest}train: {judge_every: [5, 0]}\nbaselines: {sft: {judge_every: 0, keep: best}}\n` +
        judged,
      'baselines.sft.keep: expected "last" without baselines.sft.judge_every, got "best".',
    ],
    [
      'steps to judge and no judge',
      `${smallest}train: {judge_every: 5}\n`,
      'train.judge_every: expected evaluation.metrics to judge by, got none.',
    ],
    [
      'judged steps that may come twice',
      `${smallest}train: {judge_every: 5, on_divergence: rollback}\n${judged}`,
      'train.judge_every: expected train.on_divergence "warn" or "stop"',
    ],
    [
      'a safeguard above one',
      `${smallest}objective: {safeguard: 1.5}\n`,
      'objective.safeguard: expected at most 1, got 1.5',
    ],
    [
      'a moving average that is not kept',
      `${smallest}sampling: {ema: true}\n`,
      'sampling.ema: expected a train.ema_decay above 0 for a moving average, got 0.',
    ],
    [
      'a rank of nothing',
      `${smallest}train: {lora: {rank: 0}}\n`,
      'train.lora.rank: expected at least 1, got 0',
    ],
    [
      'a slope that no pair has',
      `${smallest}objective: {auto_beta: 0.5}\n`,
      'objective.auto_beta: expected less than 0.5, got 0.5',
    ],
    [
      'a list of steps longer than the iterations',
      `${smallest}train: {steps: [1, 2, 3, 4]}\n`,
      'train.steps: expected at most 3 values (iterations), got 4.',
    ],
    [
      "one iteration's batch that does not divide",
      `${smallest}train: {batch_size: [4, 6], gradient_accumulation: 4}\n`,
      'train.gradient_accumulation: expected a divisor of train.batch_size 6, got 4.',
    ],
    [
      'a list for a baseline, which is trained once',
      `${smallest}baselines: {sft: {steps: [1, 2]}}\n`,
      /baselines.*sft.*steps/,
    ],
    [
      'mirrored images whose pair stays as it is',
      `${smallest}  flip: true\n`,
      'data.flip: expected sampling.generated "pixels", so that both images of a pair are mirrored alike, got "latents".',
    ],
    [
      'a strength without images to draw from',
      `${smallest}sampling: {strength: 0.5}\n`,
      'sampling.strength: expected nothing with sampling.generated_from "noise", got 0.5.',
    ],
    [
      'a strength that leaves no step',
      `${smallest}sampling: {generated_from: image, strength: 0.04, steps: 20}\n`,
      'sampling.strength: expected at least 1 / 20, so that one of sampling.steps 20 is left, got 0.04.',
    ],
    [
      'images drawn from one of several views',
      `${smallest}  views: 2\n  crop: random\nsampling: {generated_from: image}\n`,
      'sampling.generated_from: expected "noise" with data.flip or several data.views, since an image is drawn from one view of its real image, got "image".',
    ],
    [
      'earlier images of an opponent that never changes',
      `${smallest}objective: {opponent: initial}\nsampling: {previous_share: 0.5}\n`,
      'sampling.previous_share: expected 0 with objective.opponent "initial", whose images are always the same, got 0.5.',
    ],
    [
      'views that are all alike',
      `${smallest}  views: 2\n`,
      'data.views: expected 1 without data.flip and random data.crop, got 2.',
    ],
    [
      'stopping without judges',
      `${smallest}stop: {patience: 1}\n`,
      'stop: expected evaluation.metrics to measure improvement with, got none.',
    ],
    [
      'an aesthetic metric without head',
      `${smallest}evaluation: {prompts: p, metrics: [{name: a, kind: aesthetic, model: c}]}\n`,
      'evaluation.metrics.0.head: expected the folder of the aesthetic head, got nothing.',
    ],
    [
      'choosing by a metric that nobody measures',
      `${smallest}evaluation: {prompts: p, select: {metric: b}, metrics: [{name: a, kind: clip, model: c}]}\n`,
      'evaluation.select.metric: expected one of a, got "b".',
    ],
    [
      'one limit of several sets',
      `${smallest}evaluation: {prompts: {a: p, b: q}, limit: 3}\n`,
      'evaluation.limit: expected a limit in each of the named sets of evaluation.prompts, got one',
    ],
    [
      'an average of a judge that is not there',
      `${smallest}evaluation: {prompts: p, average: [b], metrics: [{name: a, kind: clip, model: c}]}\n`,
      'evaluation.average.0: expected one of a, got "b".',
    ],
    [
      'a limit of prompts that are not named',
      `${smallest}evaluation: {prompts: p, select: {limit: 3}}\n`,
      'evaluation.select.limit: expected evaluation.select.prompts beside it, got none.',
    ],
    [
      'a metric twice',
      `${smallest}evaluation: {prompts: p, metrics: [{name: a, kind: clip, model: c}, {name: a, kind: clip, model: c}]}\n`,
      'evaluation.metrics.1.name',
    ],
  ])('%s', (_name, text, message) => {
    expect(() => load(text)).toThrow(message);
  });
});

it("comes with the paper's settings (appendix A.1) as an example that is valid as it stands", () => {
  const config = loadRunConfig(
    fileURLToPath(new URL('../../../examples/sd15-pickapic.yaml', import.meta.url)),
  );
  expect(config.iterations).toBe(3);
  const common = { batch_size: 2048, warmup_steps: 200, schedule: 'linear', weight_decay: 0.01 };
  expect([1, 2, 3].map((k) => spinTraining(config, k))).toMatchObject([
    { ...common, steps: 50, learning_rate: 2e-5, beta: 2000 },
    { ...common, steps: 500, learning_rate: 2e-5, beta: 5000 },
    { ...common, steps: 200, learning_rate: 5e-8, beta: 5000 },
  ]);
  expect(sftTraining(config)).toMatchObject({
    ...{ learning_rate: 1e-5, batch_size: 512, warmup_steps: 500, schedule: 'constant' },
    steps: 2000,
  });
  expect(dpoTraining(config)).toMatchObject({ learning_rate: 2e-5, beta: 2000, steps: 350 });
  expect(config.sampling).toMatchObject({ steps: 50, guidance_scale: 7.5 });
  expect(config.evaluation?.metrics.map(({ kind }) => kind)).toEqual([
    'pickscore',
    'hpsv2',
    'image_reward',
    'aesthetic',
    'clip_score',
  ]);
});

it('has its schema and its page generated from what the program checks', () => {
  for (const { path, text } of generatedFiles())
    expect(
      readFileSync(path, 'utf8'),
      `${path} is stale; run "npm run generate --workspace @spindle/gateway"`,
    ).toBe(text);
});
