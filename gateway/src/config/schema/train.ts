/** `train`: an optimiser's steps, and whose keys a baseline has too. */
import { z } from 'zod';
import { forIteration } from '../../domain/per-iteration.js';
import { count, perIteration, positiveInt, rate } from './values.js';

/** Keys of which `train` takes one value per iteration as well; a baseline takes one. */
const keysPerIteration = {
  steps: positiveInt.max(10_000_000).default(500).describe('Optimiser steps per iteration.'),
  batch_size: positiveInt
    .max(65_536)
    .default(32)
    .describe('Pairs (SPIN) or images (SFT) per optimiser step.'),
  learning_rate: z.number().gt(0).max(1).default(2e-5).describe('Peak learning rate.'),
  schedule: z
    .enum(['constant', 'linear', 'cosine'])
    .default('linear')
    .describe('Learning rate after the warm-up: constant, linear to 0, or cosine to 0.'),
  warmup_steps: count
    .default(0)
    .describe(
      'Steps over which the learning rate rises linearly from 0. They may be more than the ' +
        'steps: training then ends on the way up.',
    ),
  judge_every: count
    .max(10_000_000)
    .default(0)
    .describe(
      'After every so many steps, and after the last one, a few images are drawn and judged ' +
        'beside the training: a curve of scores, and what `keep: best` goes by. 0: never.',
    ),
};

const otherKeys = {
  gradient_accumulation: positiveInt
    .default(1)
    .describe(
      'Micro-batches per step; every batch_size must be a multiple. More needs less memory and ' +
        'changes nothing else.',
    ),
  weight_decay: z.number().min(0).max(1).default(0.01).describe("AdamW's decoupled weight decay."),
  adam_beta1: z.number().min(0).lt(1).default(0.9).describe("AdamW's β1."),
  adam_beta2: z.number().min(0).lt(1).default(0.999).describe("AdamW's β2."),
  adam_epsilon: z.number().gt(0).max(1).default(1e-8).describe("AdamW's ε."),
  max_grad_norm: z
    .number()
    .min(0)
    .default(1)
    .describe('Gradients are clipped to this norm; 0 switches clipping off.'),
  ema_decay: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe(
      'Decay of the moving average of the weights; 0 switches it off. The average is what ' +
        'training returns, unless `sampling.ema` or `objective.opponent: ema` keep it beside ' +
        'the weights.',
    ),
  caption_dropout: rate.default(0).describe('Share of captions replaced by the empty prompt.'),
  activation_checkpointing: z
    .boolean()
    .default(false)
    .describe(
      'Compute activations again in backward instead of keeping them: a fraction of the ' +
        'memory for about a third more time, the same results.',
    ),
  checkpoint_steps: positiveInt
    .max(10_000_000)
    .default(50)
    .describe('A checkpoint is written every so many steps, and when training is paused.'),
  keep_checkpoints: z.int().min(2).max(1000).default(2).describe('Checkpoints kept per training.'),
  on_divergence: z
    .enum(['warn', 'stop', 'rollback'])
    .default('warn')
    .describe(
      'What an alarm leads to (loss of exactly 0, saturated logits, a spike of the loss or ' +
        "the gradient norm, the error on real images above the opponent's for long): a warning; " +
        'the end of the run, with the last good checkpoint kept; or that checkpoint again, at ' +
        'half the learning rate. Numbers that are not finite end the run, or are rolled back. ' +
        'A loss that does not move for 50 steps after the warm-up is warned about alone.',
    ),
  max_rollbacks: count
    .max(100)
    .default(3)
    .describe('Rollbacks per training before it ends the run after all.'),
  judge_prompts: positiveInt
    .max(1024)
    .default(16)
    .describe(
      'How many of the prompts that models are chosen by (evaluation.select) `judge_every` draws: ' +
        'the first ones, an image each, always with the same noise.',
    ),
  keep: z
    .enum(['last', 'best'])
    .default('last')
    .describe(
      'Which weights a training leaves: those after its last step, or, of the steps that ' +
        '`judge_every` judges, those with the highest mean of evaluation.select.metric (of equal ' +
        'ones the earliest). The next iteration starts from them.',
    ),
  sample_posterior: z
    .boolean()
    .default(false)
    .describe("Draw real latents from the VAE's posterior instead of taking its mean."),
};

/** What a single training takes. */
export const trainKeys = { ...keysPerIteration, ...otherKeys };

export const loraSchema = z.strictObject({
  rank: positiveInt.max(1024).default(8).describe('Rank of the adapters.'),
  alpha: z
    .number()
    .gt(0)
    .optional()
    .describe("The adapters' product is scaled by alpha / rank. Default: the rank."),
  targets: z
    .array(z.string().min(1))
    .min(1)
    .default(['to_q', 'to_k', 'to_v', 'to_out.0'])
    .describe(
      "Linear layers, by their whole name or its end. Default: the attentions' projections.",
    ),
});

const lora = loraSchema
  .optional()
  .describe(
    'Train low-rank adapters (LoRA) on the frozen base instead of its weights: an opponent is ' +
      'the base with other adapters or none, in the same memory. Default: off.',
  );

export const trainSchema = z.strictObject({ ...perIterationKeys(), ...otherKeys, lora });

/** `train` as it is written: some keys with a value per iteration. */
export type TrainConfig = z.output<typeof trainSchema>;

/** What one training is done with. */
export type Training = z.output<
  z.ZodObject<typeof trainKeys & { lora: typeof lora }, z.core.$strict>
>;

/** `train` of iteration k (from 1). */
export function trainOf(train: TrainConfig, k: number): Training {
  return {
    ...train,
    steps: forIteration(train.steps, k),
    batch_size: forIteration(train.batch_size, k),
    learning_rate: forIteration(train.learning_rate, k),
    schedule: forIteration(train.schedule, k),
    warmup_steps: forIteration(train.warmup_steps, k),
    // Configs of older runs do not have it.
    judge_every: forIteration((train.judge_every as number | number[] | undefined) ?? 0, k),
  };
}

type PerIteration<T> =
  T extends z.ZodDefault<infer Inner extends z.ZodType>
    ? z.ZodDefault<z.ZodUnion<[Inner, z.ZodArray<Inner>]>>
    : never;

function perIterationKeys() {
  return Object.fromEntries(
    Object.entries(keysPerIteration).map(([key, schema]) => [
      key,
      perIteration<z.ZodType>(schema.unwrap())
        .default(schema.def.defaultValue)
        .describe(`${schema.description} A list gives one per iteration.`),
    ]),
  ) as unknown as {
    [K in keyof typeof keysPerIteration]: PerIteration<(typeof keysPerIteration)[K]>;
  };
}

/** The keys that may be lists. */
export const perIterationNames = Object.keys(keysPerIteration) as (keyof typeof keysPerIteration)[];
