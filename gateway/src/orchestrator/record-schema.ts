/**
 * What a run's record must look like before anything of it is believed. Fields that another version
 * added are let through.
 */
import { z } from 'zod';

const count = z.number().int().min(0);
/** Far above any run; a damaged number must not become a list of that length. */
const items = count.max(1e9);
const time = z.number().min(0);

const blobSchema = z.looseObject({
  digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  bytes: count,
  mediaType: z.string(),
});

const unetSchema = z.looseObject({
  config: blobSchema,
  weights: blobSchema,
  adapter: blobSchema.optional(),
});

const planSchema = z.looseObject({
  runId: z.string(),
  seed: z.number(),
  iterations: count.max(1_000),
  sft: z.boolean(),
  dpo: z.boolean().optional(),
  opponent: z.enum(['previous', 'initial', 'random', 'ema']).optional(),
  rows: items,
  imagesPerPrompt: count.max(100_000),
  evaluationPrompts: items,
  select: z.looseObject({ prompts: items, metric: z.string() }).optional(),
  evaluationSeed: z.number(),
  evaluationImages: count.max(100_000).optional(),
  metrics: z.array(z.string()),
  stop: z.looseObject({ metric: z.string(), patience: count }).nullable(),
  sharedDevice: z.boolean(),
  encodeShardSize: items.min(1),
  sampleShardSize: items.min(1),
  asRead: z
    .looseObject({
      batchSize: z.union([items.min(1), z.array(items.min(1)).min(1).max(1_000)]),
      views: count.min(1).max(100_000),
    })
    .optional(),
  keepIf: z.looseObject({ metric: z.string(), margin: z.number() }).optional(),
  judging: z
    .record(
      z.string(),
      z.looseObject({
        every: z.union([items, z.array(items).min(1).max(1_000)]),
        prompts: items.min(1),
        keep: z.enum(['last', 'best']),
      }),
    )
    .optional(),
  trainSteps: z.union([items, z.array(items).min(1).max(1_000)]),
  sftSteps: items,
  dpoSteps: items.optional(),
  maxMissing: z.number(),
});

const stageSchema = z.looseObject({
  status: z.enum(['waiting', 'running', 'done', 'failed', 'skipped']),
  done: z.array(count),
  dead: z.array(z.looseObject({ shard: count, reason: z.string(), attempts: count })),
  items: count,
  activeMs: time,
  since: time.nullable(),
  redone: z.array(count).optional(),
  leftOut: z.record(z.string(), count).optional(),
});

const trainingSchema = z.looseObject({
  last: z.looseObject({ step: count }).nullable(),
  recent: z.array(z.looseObject({ step: count, seconds: z.number() })),
  unet: unetSchema.nullable(),
  average: unetSchema.optional(),
  snapshots: z
    .record(z.string(), z.looseObject({ unet: unetSchema, average: unetSchema.optional() }))
    .optional(),
  // Numbers that are not finite are null.
  judged: z
    .record(
      z.string(),
      z.looseObject({
        mean: z.number().nullable(),
        standardError: z.number().nullable(),
        n: count,
      }),
    )
    .optional(),
  kept: count.optional(),
});

const stateSchema = z.looseObject({
  plan: planSchema,
  status: z.enum(['queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled']),
  reason: z.string(),
  createdAt: time.int(),
  updatedAt: time,
  stages: z.record(z.string(), stageSchema),
  rejected: z.array(count),
  truncated: count,
  training: z.record(z.string(), trainingSchema),
  results: z.array(
    z.looseObject({ model: z.string(), metrics: z.array(z.looseObject({ metric: z.string() })) }),
  ),
  bestModel: z.string(),
  warnings: z.array(z.string()),
  round: count,
  forgiven: z.record(z.string(), time),
  restored: z.record(z.string(), count).optional(),
});

/** Of the config only what every version has: older ones know fewer keys. */
const configSchema = z.looseObject({
  name: z.string(),
  model: z.string(),
  data: z.looseObject({}),
  train: z.looseObject({}),
  sampling: z.looseObject({}),
});

export const recordSchema = z.looseObject({
  version: count,
  runId: z.string(),
  config: configSchema,
  resolution: count,
  manifest: blobSchema,
  prompts: blobSchema.nullable(),
  stamped: z.boolean().optional(),
  trace: z.record(z.string(), z.string()),
  state: stateSchema,
});
