/** Checks between keys, which a schema of single keys cannot state, and the paths' meaning. */
import { isAbsolute, resolve } from 'node:path';
import { isRemote } from '@spindle/data';
import { SpindleError } from '@spindle/kit';
import type { Model } from '../domain/model.js';
import { forIteration } from '../domain/per-iteration.js';
import { withPaths } from './prompt-files.js';
import type { RunConfig, SamplingConfig, Training } from './schema.js';
import { stepsTaken, strengthOf } from './schema/sampling.js';
import { perIterationNames, trainOf } from './schema/train.js';

/** Relative paths mean "beside the config file". */
export function resolvePaths(config: RunConfig, folder: string): RunConfig {
  const at = (path: string): string =>
    isAbsolute(path) || isRemote(path) ? path : resolve(folder, path);
  const { evaluation } = config;
  return {
    ...config,
    model: at(config.model),
    data: {
      ...config.data,
      path: at(config.data.path),
      ...(config.data.images !== undefined && { images: at(config.data.images) }),
    },
    ...(evaluation && {
      evaluation: {
        ...evaluation,
        prompts: withPaths(evaluation.prompts, at),
        select: {
          ...evaluation.select,
          ...(evaluation.select.prompts !== undefined && {
            prompts: at(evaluation.select.prompts),
          }),
        },
        metrics: evaluation.metrics.map((metric) => ({
          ...metric,
          model: at(metric.model),
          ...(metric.head !== undefined && { head: at(metric.head) }),
          ...(metric.tokenizer !== undefined && { tokenizer: at(metric.tokenizer) }),
        })),
      },
    }),
  };
}

/** Throws INVALID_ARGUMENT for combinations that no single key shows. */
export function checkConfig(config: RunConfig, where: string): void {
  const fail = (message: string): never => {
    throw new SpindleError('INVALID_ARGUMENT', `${where}: ${message}`);
  };
  const { flip, crop, views } = config.data;
  if (flip && config.sampling.generated === 'latents')
    fail(
      'data.flip: expected sampling.generated "pixels", so that both images of a pair are ' +
        'mirrored alike, got "latents".',
    );
  if (views > 1 && !flip && crop === 'center')
    fail(`data.views: expected 1 without data.flip and random data.crop, got ${views}.`);
  checkStart(config, fail);
  const { previous_share: previousShare } = config.sampling;
  if (previousShare > 0 && config.objective.opponent === 'initial')
    fail(
      'sampling.previous_share: expected 0 with objective.opponent "initial", whose images ' +
        `are always the same, got ${previousShare}.`,
    );
  for (const [key, value] of [
    ['objective.beta', config.objective.beta],
    ...perIterationNames.map((name) => [`train.${name}`, config.train[name]] as const),
  ] as const) {
    if (Array.isArray(value) && value.length > config.iterations) {
      fail(
        `${key}: expected at most ${config.iterations} values (iterations), got ${value.length}.`,
      );
    }
  }
  for (const [key, training] of trainingsOf(config)) {
    checkTrain(training, key, fail);
    checkJudging(training, key, config, fail);
  }
  if (averageApart(config) && config.train.ema_decay === 0) {
    const key = config.sampling.ema ? 'sampling.ema' : 'objective.opponent';
    fail(`${key}: expected a train.ema_decay above 0 for a moving average, got 0.`);
  }
  const metrics = config.evaluation?.metrics ?? [];
  const names = metrics.map((metric) => metric.name);
  for (const [i, metric] of metrics.entries()) {
    const key = `evaluation.metrics.${i}`;
    if (names.indexOf(metric.name) !== i)
      fail(`${key}.name: expected a name used once, got "${metric.name}" again.`);
    if (metric.kind === 'aesthetic' && metric.head === undefined)
      fail(`${key}.head: expected the folder of the aesthetic head, got nothing.`);
    if (metric.kind !== 'aesthetic' && metric.head !== undefined)
      fail(`${key}.head: expected nothing for kind "${metric.kind}", got "${metric.head}".`);
    if (
      metric.scale !== undefined &&
      (metric.kind === 'aesthetic' || metric.kind === 'image_reward')
    )
      fail(
        `${key}.scale: expected nothing for kind "${metric.kind}", which is no cosine, got ` +
          `${metric.scale}.`,
      );
  }
  const { keep_if: keepIf } = config.objective;
  if (keepIf && !names.includes(keepIf.metric))
    fail(
      `objective.keep_if.metric: expected one of ${names.join(', ') || 'evaluation.metrics'}, got ` +
        `"${keepIf.metric}".`,
    );
  if (keepIf && previousShare > 0)
    fail(
      'objective.keep_if: expected sampling.previous_share 0, since only the images of the ' +
        `iteration's own opponent are judged, got ${previousShare}.`,
    );
  for (const [i, name] of (config.evaluation?.average ?? []).entries())
    if (!names.includes(name))
      fail(
        `evaluation.average.${i}: expected one of ${names.join(', ') || 'evaluation.metrics'}, got ` +
          `"${name}".`,
      );
  if (typeof config.evaluation?.prompts === 'object' && config.evaluation.limit !== undefined)
    fail(
      'evaluation.limit: expected a limit in each of the named sets of evaluation.prompts, got ' +
        'one for all.',
    );
  const select = config.evaluation?.select;
  if (select?.metric !== undefined && !names.includes(select.metric))
    fail(
      `evaluation.select.metric: expected one of ${names.join(', ') || 'evaluation.metrics'}, got ` +
        `"${select.metric}".`,
    );
  if (select?.limit !== undefined && select.prompts === undefined)
    fail('evaluation.select.limit: expected evaluation.select.prompts beside it, got none.');
  if (config.stop) {
    if (names.length === 0)
      fail('stop: expected evaluation.metrics to measure improvement with, got none.');
    if (config.stop.metric !== undefined && !names.includes(config.stop.metric)) {
      fail(`stop.metric: expected one of ${names.join(', ')}, got "${config.stop.metric}".`);
    }
  }
}

/** What drawing starts from. */
function checkStart({ sampling, data }: RunConfig, fail: (message: string) => never): void {
  const { generated_from: from, strength, steps } = sampling;
  if (from === 'noise') {
    if (strength !== undefined)
      fail(
        `sampling.strength: expected nothing with sampling.generated_from "noise", got ${strength}.`,
      );
    return;
  }
  if (stepsTaken(sampling) < 1)
    fail(
      `sampling.strength: expected at least 1 / ${steps}, so that one of sampling.steps ${steps} ` +
        `is left, got ${strengthOf(sampling)}.`,
    );
  if (data.flip || data.views > 1)
    fail(
      'sampling.generated_from: expected "noise" with data.flip or several data.views, since an ' +
        'image is drawn from one view of its real image, got "image".',
    );
}

/** Every training of the run, under the key of its section. */
function trainingsOf(config: RunConfig): (readonly [string, Training])[] {
  const [sft, dpo] = [sftTraining(config), dpoTraining(config)];
  return [
    ...Array.from(
      { length: config.iterations },
      (_, i) => ['train', trainOf(config.train, i + 1)] as const,
    ),
    ...(sft ? [['baselines.sft', sft] as const] : []),
    ...(dpo ? [['baselines.dpo', dpo] as const] : []),
  ];
}

function checkJudging(
  train: Training,
  key: string,
  { evaluation }: RunConfig,
  fail: (message: string) => never,
): void {
  const { judge_every: every, keep, on_divergence: onDivergence } = train;
  if (keep === 'best' && every === 0)
    fail(`${key}.keep: expected "last" without ${key}.judge_every, got "best".`);
  if (every === 0) return;
  if (!evaluation || evaluation.metrics.length === 0)
    fail(`${key}.judge_every: expected evaluation.metrics to judge by, got none.`);
  if (onDivergence === 'rollback')
    fail(
      `${key}.judge_every: expected ${key}.on_divergence "warn" or "stop", since steps that come ` +
        `again with other numbers cannot be judged again, got "rollback".`,
    );
}

function checkTrain(train: Training, key: string, fail: (message: string) => never): void {
  if (train.batch_size % train.gradient_accumulation !== 0) {
    fail(
      `${key}.gradient_accumulation: expected a divisor of ${key}.batch_size ` +
        `${train.batch_size}, got ${train.gradient_accumulation}.`,
    );
  }
}

/** The moving average is kept beside the weights, because something asks for it. */
export function averageApart(config: RunConfig): boolean {
  return config.sampling.ema || config.objective.opponent === 'ema';
}

export interface SftTraining extends Training {
  min_snr_gamma?: number | undefined;
}

export interface DpoTraining extends Training {
  beta: number;
  auto_beta?: number | undefined;
  safeguard?: number | undefined;
  timesteps_per_pair: number;
  timestep_weight: RunConfig['objective']['timestep_weight'];
}

/** A baseline's training: what it leaves open is that of the first iteration. */
export function sftTraining(config: RunConfig): SftTraining | undefined {
  const { sft } = config.baselines;
  return sft && { ...trainOf(config.train, 1), ...defined(sft) };
}

export function dpoTraining(config: RunConfig): DpoTraining | undefined {
  const { dpo } = config.baselines;
  return dpo && { ...spinTraining(config, 1), ...defined(dpo) };
}

/** What iteration k is trained with. */
export function spinTraining(config: RunConfig, k: number): DpoTraining {
  return { ...trainOf(config.train, k), ...objectiveOf(config, k) };
}

function objectiveOf({ objective }: RunConfig, k: number) {
  const { beta, auto_beta, safeguard, timesteps_per_pair, timestep_weight } = objective;
  return {
    ...{ beta: forIteration(beta, k), timesteps_per_pair, timestep_weight },
    ...defined({ auto_beta, safeguard }),
  };
}

/** What a model of the run is trained with; the base, with nothing. */
export function trainingOf(config: RunConfig, model: Model): Training | undefined {
  switch (model.kind) {
    case 'base':
      return undefined;
    case 'sft':
      return sftTraining(config);
    case 'dpo':
      return dpoTraining(config);
    case 'spin':
    case 'ema':
      return spinTraining(config, model.iteration);
  }
}

function defined<T extends object>(keys: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(keys).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}

export function evaluationSampling(config: RunConfig): SamplingConfig {
  const { strength: _, ...sampling } = config.sampling;
  return {
    ...sampling,
    generated_from: 'noise',
    ...defined(config.evaluation?.sampling ?? {}),
    images_per_prompt: 1,
  };
}
