/** `baselines`: trainings beside the iterations. */
import { z } from 'zod';
import { autoBeta, beta, safeguard, timestepsPerPair, timestepWeight } from './objective.js';
import { loraSchema, trainKeys } from './train.js';

/** A baseline takes what it does not set from `train`. */
const baselineKeys = Object.fromEntries(
  Object.entries(trainKeys).map(([key, schema]) => [key, optionalKey(key, schema)]),
) as {
  [K in keyof typeof trainKeys]: z.ZodOptional<
    (typeof trainKeys)[K] extends z.ZodDefault<infer T> ? T : never
  >;
};

export const sftSchema = z.strictObject({
  ...baselineKeys,
  lora: loraSchema.optional().describe('Default: train.lora.'),
  min_snr_gamma: z
    .number()
    .gt(0)
    .optional()
    .describe(
      'Min-SNR weighting (arXiv 2303.09556): timesteps weigh min(snr, γ)/snr, or /(snr + 1) ' +
        'for v prediction; 5 is usual. Default: off.',
    ),
});

export const dpoSchema = z.strictObject({
  ...baselineKeys,
  lora: loraSchema.optional().describe('Default: train.lora.'),
  beta: beta.optional().describe("Default: objective.beta's first."),
  safeguard: safeguard.describe('Default: objective.safeguard.'),
  auto_beta: autoBeta.describe('Default: objective.auto_beta.'),
  timesteps_per_pair: timestepsPerPair
    .unwrap()
    .optional()
    .describe('Default: objective.timesteps_per_pair.'),
  timestep_weight: timestepWeight
    .unwrap()
    .optional()
    .describe('Default: objective.timestep_weight.'),
});

function optionalKey(key: string, schema: z.ZodDefault): z.ZodOptional {
  const inner = schema.unwrap() as z.ZodType;
  return inner
    .optional()
    .describe(
      key === 'steps' ? 'Optimiser steps. Default: train.steps.' : `Default: train.${key}.`,
    );
}

const baselinesObject = z.strictObject({
  sft: sftSchema
    .optional()
    .describe(
      'Plain fine-tuning on the same images, evaluated beside the iterations. Keys as in `train`.',
    ),
  dpo: dpoSchema
    .optional()
    .describe(
      "Diffusion-DPO (arXiv 2311.12908) from the base on the data set's preference pairs " +
        '(rows with a rejected image, docs/DATA.md). Keys as in `train`.',
    ),
});

type Baselines = z.output<typeof baselinesObject>;

/** A list of one-key objects reads well in YAML; it means the same as the merged object. */
export const baselinesSchema = z.union([
  baselinesObject,
  z.array(baselinesObject).transform((list): Baselines => Object.assign({}, ...list) as Baselines),
]);
