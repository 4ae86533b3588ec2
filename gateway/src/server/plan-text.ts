/** What `spindle run --dry-run` prints: what would be done, and what it needs. */
import { statfsSync } from 'node:fs';
import { sizeName, type ImageSize } from '@spindle/data';
import {
  averageApart,
  dpoTraining,
  evaluationSampling,
  sftTraining,
  spinTraining,
} from '../config/resolve.js';
import type { RunConfig, SamplingConfig, Training } from '../config/schema.js';
import { stepsTaken, strengthOf } from '../config/schema/sampling.js';
import { judgingOf } from '../domain/judging.js';
import { modelName, sameModel, spin, type Model } from '../domain/model.js';
import {
  baselines,
  evaluationItems,
  judgedSteps,
  modelsOf,
  opponentOf,
  reportedPrompts,
  selectMetric,
  stagesOf,
  type RunPlan,
} from '../domain/plan.js';
import type { StageKind } from '../domain/stage.js';
import { statedHours } from '../domain/stated-rates.js';
import type { CheckedRun } from './checked-run.js';

const float = 4;

export function describePlan(run: Omit<CheckedRun, 'text'>): string[] {
  const { config, plan, model, resolution, sizes, prompts, warnings } = run;
  const side = resolution / model.vaeScale;
  const shards = (name: string): number =>
    stagesOf(plan).find((stage) => stage.name === name)?.shards ?? 0;
  const sft = sftTraining(config);
  const dpo = dpoTraining(config);
  const evaluation =
    prompts.length > 0
      ? `${reportedPrompts(plan)} ` +
        `prompts${plan.select ? ` and ${plan.select.prompts} to choose by` : ''}${(plan.evaluationImages ?? 1) > 1 ? ` × ${plan.evaluationImages} images` : ''} ` +
        `× ${modelsOf(plan).length} models, judged by ${plan.metrics.join(', ') || 'nobody'}`
      : 'none';
  return [
    `model: ${config.model} (${millions(model.unetParameters)} U-Net parameters, ` +
      `${resolution}×${resolution} pixels, ${model.latentChannels}×${side}×${side} latents, ` +
      `${model.predictionType.replace(/_prediction$/, '')} prediction).`,
    `data: ${plan.rows} images from ${config.data.path}, encoded in ${shards('encode')} jobs.`,
    ...bucketText(sizes),
    ...(sft
      ? [`baseline sft: ${trainText(sft, 'images')}${judgingText(plan, { kind: 'sft' })}.`]
      : []),
    ...(dpo
      ? [
          `baseline dpo: ${trainText(dpo, 'pairs')}, β ${dpo.beta}` +
            `${judgingText(plan, { kind: 'dpo' })}.`,
        ]
      : []),
    ...Array.from({ length: plan.iterations }, (_, i) => iterationText(config, plan, i + 1)),
    `evaluation: ${evaluation}.`,
    ...workText(run),
    `memory: training needs about ${size(trainingMemory(run))} plus activations ` +
      `(${memoryText(config)}).`,
    `disk: about ${size(diskBytes(run))} under the artifacts folder.`,
    ...warnings.map((warning) => `warning: ${warning}`),
  ];
}

/** None has more pixels than the square, which memory and disk are counted with. */
function bucketText(sizes: readonly ImageSize[]): string[] {
  const [first] = sizes;
  const last = sizes.at(-1);
  if (first === undefined || last === undefined) return [];
  const largest = Math.max(...sizes.map(({ height, width }) => height * width));
  const names = sizes.filter(({ height, width }) => height * width === largest).map(sizeName);
  return [
    `buckets: ${sizes.length} sizes from ${sizeName(first)} to ${sizeName(last)} pixels; the ` +
      `largest, ${names.join(' and ')}, decides on memory.`,
  ];
}

function iterationText(config: RunConfig, plan: RunPlan, k: number): string {
  const opponent = opponentOf(plan, k);
  const { sampling } = config;
  const training = spinTraining(config, k);
  const train = `${trainText(training, 'pairs')}, β ${training.beta}${judgingText(plan, spin(k))}.`;
  const scheduler = sampling.scheduler ?? "the model's scheduler";
  const earlier = Array.from({ length: k - 1 }, (_, i) => opponentOf(plan, i + 1));
  if (earlier.some((other) => sameModel(other, opponent)))
    return `iteration ${k}: against the images that ${modelName(opponent)} drew, ${train}`;
  const stage = stagesOf(plan).find(({ kind, iteration }) => kind === 'sample' && iteration === k);
  const draw =
    `draw ${grouped(stage?.items ?? 0)} images in ${stage?.shards ?? 0} jobs (${scheduler}, ` +
    `${stepsText(sampling)}, guidance ${sampling.guidance_scale})`;
  const judge = plan.keepIf ? `judge the pairs by ${plan.keepIf.metric}, ` : '';
  return `iteration ${k}: against ${modelName(opponent)}, ${draw}, ${judge}then ${train}`;
}

function stepsText(sampling: SamplingConfig): string {
  const strength = strengthOf(sampling);
  return strength === undefined
    ? `${sampling.steps} steps`
    : `from the real images at strength ${strength}: ${stepsTaken(sampling)} of ` +
        `${sampling.steps} steps`;
}

function trainText(
  train: Training & { timesteps_per_pair?: number },
  what: 'pairs' | 'images',
): string {
  const { timesteps_per_pair: timesteps = 1 } = train;
  return (
    `train ${train.steps} steps of ${train.batch_size} (${grouped(seen(train))} ${what}` +
    `${timesteps > 1 ? `, ${timesteps} timesteps each` : ''}) at learning rate ` +
    `${train.learning_rate} (${train.schedule}, ${train.warmup_steps} warm-up steps)`
  );
}

/** "; judged after 20 of its steps by pick on 16 prompts, and the best of them is kept" */
function judgingText(plan: RunPlan, model: Model): string {
  const judging = judgingOf(plan, model);
  if (!judging) return '';
  const steps = judgedSteps(plan, model).length;
  return (
    `; judged after ${steps} of its steps by ${selectMetric(plan) ?? ''} on ` +
    `${judging.prompts} prompts${judging.keep === 'best' ? ', and the best of them is kept' : ''}`
  );
}

/** Pairs or images that a training reads, each as often as it is read. */
function seen({ steps, batch_size }: Pick<Training, 'steps' | 'batch_size'>): number {
  return steps * batch_size;
}

function pairsOf(train: Training & { timesteps_per_pair: number }) {
  return { count: seen(train), timesteps: train.timesteps_per_pair };
}

/** The whole run in figures, and hours where a rate is stated for such a run. */
function workText({ config, plan, model, resolution }: Omit<CheckedRun, 'text'>): string[] {
  const [sft, dpo] = [sftTraining(config), dpoTraining(config)];
  const { drawn, evaluated } = workOf({ plan, resolution });
  const iterations = Array.from({ length: plan.iterations }, (_, i) =>
    pairsOf(spinTraining(config, i + 1)),
  );
  const spinPairs = iterations.reduce((sum, { count }) => sum + count, 0);
  const work = {
    pairs: [...iterations, ...(dpo ? [pairsOf(dpo)] : [])],
    sftImages: sft ? seen(sft) : 0,
    drawn: Number(drawn),
    steps: stepsTaken(config.sampling),
    evaluated: Number(evaluated),
    evaluationSteps: evaluationSampling(config).steps,
  };
  const counted =
    `work: ${grouped(spinPairs)} pairs in all iterations, ${grouped(work.drawn)} images drawn ` +
    `for them, ${grouped(work.evaluated)} for evaluation.`;
  // The rates are those of pairs without adapters, and of images with guidance.
  const like =
    !config.train.lora &&
    !config.train.activation_checkpointing &&
    config.sampling.guidance_scale > 1;
  const hours = like
    ? statedHours({ unetParameters: model.unetParameters, resolution }, work)
    : undefined;
  if (!hours) return [counted];
  const { rate } = hours;
  return [
    counted,
    `time: ${hourText(hours.drawing)} of drawing, ${hourText(hours.training)} of training ` +
      `(baselines too), ${hourText(hours.evaluation)} of drawing for evaluation at ` +
      `${rate.pairs} pairs and ${rate.images} images (${rate.steps} steps) per second, on ` +
      `${rate.of}; --probe measures this machine.`,
  ];
}

function hourText(hours: number): string {
  return `${hours.toFixed(hours < 10 ? 1 : 0)} h`;
}

function grouped(count: number): string {
  return count.toLocaleString('en');
}

function memoryText({ train }: RunConfig): string {
  if (train.lora) return 'the base once; adapters, their gradients and moments are small beside it';
  return `weights, opponent, gradients, two moments${train.ema_decay > 0 ? ', moving average' : ''}`;
}

function trainingMemory({ model, config }: Omit<CheckedRun, 'text'>): number {
  const copies = config.train.lora ? 1 : 5 + (config.train.ema_decay > 0 ? 1 : 0);
  return Number(model.unetParameters) * float * copies;
}

function diskBytes(run: Omit<CheckedRun, 'text'>): number {
  const { model, config, plan, resolution, data } = run;
  const weights = Number(model.unetParameters) * float;
  const latent = model.latentChannels * (resolution / model.vaeScale) ** 2 * float;
  const trainings = plan.iterations + baselines(plan).length;
  // Checkpoints of adapters hold the adapters alone.
  const state = config.train.lora ? 0 : weights * (3 + (config.train.ema_decay > 0 ? 1 : 0));
  // Those of one training at a time: they go when it is done, and the newest comes before one goes.
  const checkpoints = state * (config.train.keep_checkpoints + 1);
  const { views } = config.data;
  // A posterior is a mean and a log-variance, for every view.
  const copies = config.sampling.generated === 'pixels' ? 2 * views : 1;
  const encoded =
    plan.rows * views * (2 * latent + model.textTokens * model.textWidth * float) +
    // Of a rejected image the latents alone, of one view.
    data.pairs * 2 * latent;
  const images = stagesOf(plan).reduce(
    (sum, stage) => sum + (stage.kind === 'sample' ? stage.items : 0),
    0,
  );
  const drawn = images * latent * copies;
  // A PNG of a photo takes about two bytes per pixel; stored once and shown once.
  const judgedImages = Number(imagesOf(plan, 'judge-sample'));
  const pictures =
    (2 * (trainings + 1) * evaluationItems(plan) + judgedImages) * resolution ** 2 * 2;
  const judged = plan.keepIf ? 2 * images * resolution ** 2 * 2 : 0;
  const results = (trainings + snapshotsHeld(run)) * weights;
  return results + checkpoints + encoded + drawn + pictures + judged;
}

/**
 * Weights that judging holds beside those that trainings end in, of one training at a time: the
 * best so far, one that is judged, and one that waits. Where samplers fall behind, more wait.
 */
function snapshotsHeld({ config, plan }: Omit<CheckedRun, 'text'>): number {
  const most = Math.max(
    ...modelsOf(plan).map((model) =>
      Math.min(judgedSteps(plan, model).length, judgingOf(plan, model)?.keep === 'best' ? 3 : 2),
    ),
  );
  return most * (averageApart(config) ? 2 : 1);
}

/** Bytes free where the artifacts go, or undefined where the system does not say. */
export function freeBytes(folder: string): number | undefined {
  try {
    const info = statfsSync(folder);
    return info.bavail * info.bsize;
  } catch {
    return undefined;
  }
}

export function neededBytes(run: Omit<CheckedRun, 'text'>): number {
  return diskBytes(run);
}

function imagesOf(plan: RunPlan, kind: StageKind): bigint {
  return BigInt(
    stagesOf(plan).reduce((sum, stage) => sum + (stage.kind === kind ? stage.items : 0), 0),
  );
}

export function workOf({ plan, resolution }: Pick<CheckedRun, 'plan' | 'resolution'>) {
  const items = (kind: StageKind): bigint => imagesOf(plan, kind);
  return {
    resolution,
    rows: BigInt(plan.rows),
    drawn: items('sample'),
    evaluated: items('eval-sample') + items('judge-sample'),
  };
}

function millions(count: bigint): string {
  return `${(Number(count) / 1e6).toFixed(1)} M`;
}

export function size(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(value < 10 && unit > 0 ? 1 : 0)} ${units[unit] ?? ''}`;
}
