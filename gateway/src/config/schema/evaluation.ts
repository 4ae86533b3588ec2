/** `evaluation`: held-out prompts and judges. */
import { z } from 'zod';
import { samplingSchema } from './sampling.js';
import { modelFolder, positiveInt, seed } from './values.js';

export const metricSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9_-]*$/)
    .describe('Name in tables and reports.'),
  kind: z
    .enum(['clip', 'pickscore', 'hpsv2', 'clip_score', 'image_reward', 'aesthetic'])
    .describe(
      '"clip": exp(logit_scale) · cosine of image and caption; "pickscore", "hpsv2", ' +
        '"clip_score": 100 · cosine; "image_reward": BLIP\'s reward; "aesthetic": LAION\'s ' +
        'linear layers (v1 or v2) on the CLIP image embedding.',
    ),
  model: modelFolder(
    'The judge: a CLIPModel folder (config.json, safetensors, preprocessor_config.json, ' +
      "tokenizer), or a safetensors file (or its folder) in open_clip's layout; for " +
      '"image_reward" ImageReward\'s safetensors with vocab.txt beside it.',
  ),
  head: z
    .string()
    .min(1)
    .optional()
    .describe(
      'The aesthetic head\'s safetensors, file or folder; needed by "aesthetic" and by no ' +
        'other kind.',
    ),
  tokenizer: z
    .string()
    .min(1)
    .optional()
    .describe(
      "Folder of the judge's tokenizer. Default: beside its weights; for CLIP's forms else " +
        "the base model's tokenizer.",
    ),
  preprocess: z
    .enum(['transformers', 'torchvision', 'tensor', 'tensor_antialias'])
    .optional()
    .describe(
      'How images come to the judge\'s size. Default: "tensor" (no antialiasing, as ' +
        'torchvision up to 0.16) for "hpsv2", "torchvision" for "image_reward", else ' +
        '"transformers". Scores of different ways do not compare.',
    ),
  scale: z
    .number()
    .gt(0)
    .optional()
    .describe('What cosines are multiplied by. Default: exp(logit_scale) for "clip", else 100.'),
  variant: z
    .string()
    .min(1)
    .optional()
    .describe('Name of the variant in reports, e.g. "v2.1". Default: told from the files.'),
});

const { scheduler, overrides, steps, guidance_scale, eta } = samplingSchema.shape;

/** Without defaults: evaluation takes what it does not set from `sampling`. */
const evaluationSamplingSchema = z.strictObject({
  scheduler: scheduler.unwrap().optional().describe('Default: sampling.scheduler.'),
  overrides: overrides.unwrap().optional().describe('Default: sampling.overrides.'),
  steps: steps.unwrap().optional().describe('Default: sampling.steps.'),
  guidance_scale: guidance_scale.unwrap().optional().describe('Default: sampling.guidance_scale.'),
  eta: eta.unwrap().optional().describe('Default: sampling.eta.'),
});

const promptFile = z.string().min(1);

/** Of several sets, each with its tables. */
const promptSets = z
  .record(
    z.string().regex(/^[a-z0-9][a-z0-9_-]*$/),
    z.union([
      promptFile,
      z.strictObject({
        file: promptFile.describe('The file.'),
        limit: positiveInt.optional().describe('Use only the first so many of its prompts.'),
      }),
    ]),
  )
  .refine((sets) => Object.keys(sets).length > 0, 'expected at least one set, got none');

export const evaluationSchema = z.strictObject({
  prompts: z
    .union([promptFile, promptSets])
    .describe(
      'Held-out prompts: a text file with one per line; a JSON array of strings or of ' +
        '{prompt, category}, or an object of such lists by category; a CSV, TSV or parquet file ' +
        'with a column prompt, caption or text (a prompt that repeats counts once) and perhaps ' +
        'one of categories. Or several named sets, {name: file} or {name: {file, limit}}: the ' +
        'report has tables of each beside those of all.',
    ),
  prompt_column: z
    .string()
    .min(1)
    .optional()
    .describe('CSV, TSV, parquet: column of the prompts. Default: prompt, caption or text.'),
  category_column: z
    .string()
    .min(1)
    .optional()
    .describe(
      'CSV, TSV, parquet: column of the categories, by which results are shown too. Default: ' +
        'category or style, where there is one.',
    ),
  images_per_prompt: positiveInt
    .max(64)
    .default(1)
    .describe(
      'Images that every model draws per held-out prompt. Statistics take their mean, and ' +
        'beside it the best of them.',
    ),
  limit: positiveInt
    .optional()
    .describe('Use only the first so many prompts; named sets have limits of their own.'),
  average: z
    .array(z.string())
    .min(1)
    .optional()
    .describe(
      'Metrics whose average chooses one image per prompt for the report. Default: all of them.',
    ),
  select: z
    .strictObject({
      prompts: z
        .string()
        .min(1)
        .optional()
        .describe(
          'Prompts to choose by, in the same forms. Default: a fifth of evaluation.prompts, drawn ' +
            'by their place and then not reported; none where there are fewer than ten.',
        ),
      limit: positiveInt.optional().describe('Use only the first so many of them.'),
      metric: z
        .string()
        .optional()
        .describe('Metric whose mean decides which iteration is best. Default: the first one.'),
    })
    .prefault({})
    .describe(
      'What the best iteration, and when to stop, follow from: prompts that no table of the ' +
        'report has, so that its numbers are not those that were chosen for being high.',
    ),
  seed: seed
    .default(0)
    .describe(
      'Seed of the evaluation images; the same for every model, so that scores compare image ' +
        'by image.',
    ),
  metrics: z
    .array(metricSchema)
    .default([])
    .describe(
      'Judges. The mean of the first one decides which iteration is best, unless select says.',
    ),
  sampling: evaluationSamplingSchema
    .default({})
    .describe('Overrides of `sampling` for evaluation.'),
});
