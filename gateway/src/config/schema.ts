/**
 * The run config: one description and default per key, a section per file in schema/.
 * docs/CONFIG.md and schema/run.schema.json are generated from here, so a description is written
 * for the person who fills the key in.
 */
import { z } from 'zod';
import { baselinesSchema } from './schema/baselines.js';
import { dataSchema } from './schema/data.js';
import { evaluationSchema } from './schema/evaluation.js';
import { objectiveSchema } from './schema/objective.js';
import { samplingSchema } from './schema/sampling.js';
import { trainSchema } from './schema/train.js';
import { modelFolder, positiveInt, rate, seed } from './schema/values.js';

export type { SamplingConfig } from './schema/sampling.js';
export type { TrainConfig, Training } from './schema/train.js';

export const runConfigSchema = z
  .strictObject({
    $schema: z.string().optional().describe('Ignored; lets editors find the schema.'),
    name: z
      .string()
      .regex(/^[a-z0-9][a-z0-9-]{0,39}$/)
      .default('run')
      .describe('Prefix of the run id: lower-case letters, digits and "-".'),
    model: modelFolder(
      "Base model: a Stable Diffusion 1.x, 2.x or XL pipeline in diffusers' folder format " +
        '(model_index.json, unet, vae, text_encoder, tokenizer, scheduler).',
    ),
    data: dataSchema,
    objective: objectiveSchema.prefault({}).describe('What training optimises.'),
    iterations: positiveInt.max(100).default(3).describe('Self-play iterations.'),
    train: trainSchema.prefault({}).describe('Training of every iteration.'),
    sampling: samplingSchema
      .prefault({})
      .describe(
        'How the opponent draws its images; evaluation uses the same unless it says otherwise.',
      ),
    baselines: baselinesSchema
      .prefault({})
      .describe('Models trained for comparison. Also accepted: a list, `- sft: {…}`.'),
    evaluation: evaluationSchema
      .optional()
      .describe(
        'Held-out prompts and judges. Without it nothing is scored and the last iteration ' +
          'counts as best.',
      ),
    stop: z
      .strictObject({
        metric: z
          .string()
          .optional()
          .describe('Metric whose held-out mean must improve. Default: the first one.'),
        patience: positiveInt
          .default(1)
          .describe('Stop after so many iterations in a row without improvement.'),
      })
      .optional()
      .describe(
        'Stop before the last iteration when the held-out score no longer improves. Training ' +
          'then waits for the evaluation of its opponent.',
      ),
    precision: z
      .enum(['auto', 'float32', 'bfloat16'])
      .default('auto')
      .describe('Arithmetic of the U-Net; "auto" takes the faster one, measured at start-up.'),
    seed: seed.default(0).describe('Seed of the whole run: noise, shuffling, timesteps.'),
    max_missing: rate
      .default(0.05)
      .describe(
        "Share of a stage's items that may be lost (broken images, jobs that failed three " +
          'times) before the run fails.',
      ),
    resources: z
      .strictObject({
        shared_device: z
          .boolean()
          .default(true)
          .describe(
            'Training and sampling use the same device (one machine): training waits until ' +
              'the samplers are done. false: they overlap, and training begins as soon as the ' +
              'images of its first steps are drawn. The weights are the same.',
          ),
        encode_shard_size: positiveInt.max(4096).default(64).describe('Images per encode job.'),
      })
      .prefault({})
      .describe('How work is laid out on the machines.'),
  })
  .meta({ title: 'Spindle run config' });

export type RunConfigInput = z.input<typeof runConfigSchema>;
export type RunConfig = z.output<typeof runConfigSchema>;
