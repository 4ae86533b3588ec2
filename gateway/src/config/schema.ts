/**
 * The run config: one description and default per key. docs/CONFIG.md and schema/run.schema.json
 * are generated from here, so a description is written for the person who fills the key in.
 */
import { z } from 'zod';

const positiveInt = z.int().min(1);
const count = z.int().min(0);
const rate = z.number().min(0).max(1);
const seed = z.int().min(0).max(Number.MAX_SAFE_INTEGER);

/**
 * One number for all iterations, or a list with one number per iteration (the last one repeats).
 */
function perIteration(value: z.ZodNumber) {
  return z.union([value, z.array(value).min(1)]);
}

/**
 * "FOLDER@VARIANT" and {path, variant} are the same; the former is what everything behind the
 * config reads.
 */
function modelFolder(description: string) {
  return z
    .union([
      z.string().min(1),
      variantFolder.transform(({ path, variant }) => `${path.replace(/\/+$/, '')}@${variant}`),
    ])
    .describe(`${description} FOLDER@fp16, or {path, variant}, takes the weights of a variant.`);
}

const variantFolder = z.strictObject({
  path: z.string().min(1).describe('The folder.'),
  variant: z
    .string()
    .regex(/^[A-Za-z0-9_.-]+$/)
    .describe(
      'Which of several weights files, by the word in their names, e.g. "fp16" for diffusion_pytorch_model.fp16.safetensors. The U-Net must have it; other parts without it give their plain files.',
    ),
});

export const metricSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9_-]*$/)
    .describe('Name in tables and reports.'),
  kind: z
    .enum(['clip', 'pickscore', 'hpsv2', 'clip_score', 'image_reward', 'aesthetic'])
    .describe(
      '"clip": exp(logit_scale) · cosine of image and caption; "pickscore", "hpsv2", "clip_score": 100 · cosine; "image_reward": BLIP\'s reward; "aesthetic": LAION\'s linear layers (v1 or v2) on the CLIP image embedding.',
    ),
  model: modelFolder(
    'The judge: a CLIPModel folder (config.json, safetensors, preprocessor_config.json, tokenizer), or a safetensors file (or its folder) in open_clip\'s layout; for "image_reward" ImageReward\'s safetensors with vocab.txt beside it.',
  ),
  head: z
    .string()
    .min(1)
    .optional()
    .describe(
      'The aesthetic head\'s safetensors, file or folder; needed by "aesthetic" and by no other kind.',
    ),
  tokenizer: z
    .string()
    .min(1)
    .optional()
    .describe(
      "Folder of the judge's tokenizer. Default: beside its weights; for CLIP's forms else the base model's tokenizer.",
    ),
  preprocess: z
    .enum(['transformers', 'torchvision', 'tensor', 'tensor_antialias'])
    .optional()
    .describe(
      'How images come to the judge\'s size. Default: "tensor" (no antialiasing, as torchvision up to 0.16) for "hpsv2", "torchvision" for "image_reward", else "transformers". Scores of different ways do not compare.',
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

export const samplingSchema = z.strictObject({
  scheduler: z
    .enum([
      'DDIMScheduler',
      'PNDMScheduler',
      'DPMSolverMultistepScheduler',
      'EulerDiscreteScheduler',
    ])
    .optional()
    .describe(
      "Sampler, by diffusers' class name. Default: the model's own (scheduler/scheduler_config.json).",
    ),
  overrides: z
    .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))
    .default({})
    .describe('Keys that override scheduler_config.json, e.g. {use_karras_sigmas: true}.'),
  steps: positiveInt.max(1000).default(50).describe('Denoising steps per image.'),
  guidance_scale: z
    .number()
    .min(1)
    .max(100)
    .default(7.5)
    .describe('Classifier-free guidance: uncond + scale · (cond − uncond); 1 switches it off.'),
  eta: rate.default(0).describe("DDIM's eta; 0 is deterministic."),
  generated: z
    .enum(['latents', 'pixels'])
    .default('latents')
    .describe(
      '"latents": train on what the sampler ends with. "pixels": decode it, round to 8 bits and encode again, as real images are and as the original scripts do; slower.',
    ),
  previous_share: rate
    .default(0)
    .describe(
      'Share of the draws, from the second iteration on, whose generated image is one that the opponent of the iteration before drew.',
    ),
  ema: z
    .boolean()
    .default(false)
    .describe(
      'Draw all images of trained models by the moving average of their weights (needs train.ema_decay), while iterations go on from the weights.',
    ),
  images_per_prompt: positiveInt
    .max(64)
    .default(1)
    .describe('Images the opponent draws per training prompt and iteration.'),
  shard_size: positiveInt
    .max(4096)
    .default(32)
    .describe('Images per job: what a crash can cost, and the grain of work sharing.'),
});

const trainKeys = {
  steps: positiveInt.max(10_000_000).default(500).describe('Optimiser steps per iteration.'),
  batch_size: positiveInt
    .max(65_536)
    .default(32)
    .describe('Pairs (SPIN) or images (SFT) per optimiser step.'),
  gradient_accumulation: positiveInt
    .default(1)
    .describe(
      'Micro-batches per step; batch_size must be a multiple. More needs less memory and changes nothing else.',
    ),
  learning_rate: perIteration(z.number().gt(0).max(1))
    .default(2e-5)
    .describe('Peak learning rate; a list gives one per iteration.'),
  schedule: z
    .enum(['constant', 'linear', 'cosine'])
    .default('linear')
    .describe('Learning rate after the warm-up: constant, linear to 0, or cosine to 0.'),
  warmup_steps: count
    .default(0)
    .describe('Steps over which the learning rate rises linearly from 0.'),
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
      'Decay of the moving average of the weights; 0 switches it off. The average is what training returns, unless `sampling.ema` or `objective.opponent: ema` keep it beside the weights.',
    ),
  caption_dropout: rate.default(0).describe('Share of captions replaced by the empty prompt.'),
  activation_checkpointing: z
    .boolean()
    .default(false)
    .describe(
      'Compute activations again in backward instead of keeping them: a fraction of the memory for about a third more time, the same results.',
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
      "What an alarm leads to (loss of exactly 0, saturated logits, a spike of the loss or the gradient norm, the error on real images above the opponent's for long): a warning; the end of the run, with the last good checkpoint kept; or that checkpoint again, at half the learning rate. Numbers that are not finite end the run, or are rolled back.",
    ),
  max_rollbacks: count
    .max(100)
    .default(3)
    .describe('Rollbacks per training before it ends the run after all.'),
  sample_posterior: z
    .boolean()
    .default(false)
    .describe("Draw real latents from the VAE's posterior instead of taking its mean."),
};

const loraSchema = z.strictObject({
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
    'Train low-rank adapters (LoRA) on the frozen base instead of its weights: an opponent is the base with other adapters or none, in the same memory. Default: off.',
  );

export const trainSchema = z.strictObject({ ...trainKeys, lora });

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
      'Min-SNR weighting (arXiv 2303.09556): timesteps weigh min(snr, γ)/snr, or /(snr + 1) for v prediction; 5 is usual. Default: off.',
    ),
});

const beta = z.number().gt(0);
const safeguard = rate.optional();
const autoBeta = z.number().gt(0).lt(0.5).optional();

export const dpoSchema = z.strictObject({
  ...baselineKeys,
  lora: loraSchema.optional().describe('Default: train.lora.'),
  beta: beta.optional().describe("Default: objective.beta's first."),
  safeguard: safeguard.describe('Default: objective.safeguard.'),
  auto_beta: autoBeta.describe('Default: objective.auto_beta.'),
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
      "Diffusion-DPO (arXiv 2311.12908) from the base on the data set's preference pairs (rows with a rejected image, docs/DATA.md). Keys as in `train`.",
    ),
});

type Baselines = z.output<typeof baselinesObject>;

/** A list of one-key objects reads well in YAML; it means the same as the merged object. */
export const baselinesSchema = z.union([
  baselinesObject,
  z.array(baselinesObject).transform((list): Baselines => Object.assign({}, ...list) as Baselines),
]);

const { scheduler, overrides, steps, guidance_scale, eta } = samplingSchema.shape;

/** Without defaults: evaluation takes what it does not set from `sampling`. */
const evaluationSamplingSchema = z.strictObject({
  scheduler: scheduler.unwrap().optional().describe('Default: sampling.scheduler.'),
  overrides: overrides.unwrap().optional().describe('Default: sampling.overrides.'),
  steps: steps.unwrap().optional().describe('Default: sampling.steps.'),
  guidance_scale: guidance_scale.unwrap().optional().describe('Default: sampling.guidance_scale.'),
  eta: eta.unwrap().optional().describe('Default: sampling.eta.'),
});

export const evaluationSchema = z.strictObject({
  prompts: z
    .string()
    .min(1)
    .describe(
      'Held-out prompts: a text file with one per line; a JSON array of strings or of {prompt, category}, or an object of such lists by category; a CSV, TSV or parquet file with a column prompt, caption or text (a prompt that repeats counts once) and perhaps one of categories.',
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
      'CSV, TSV, parquet: column of the categories, by which results are shown too. Default: category or style, where there is one.',
    ),
  images_per_prompt: positiveInt
    .max(64)
    .default(1)
    .describe(
      'Images that every model draws per held-out prompt. Statistics take their mean, and beside it the best of them.',
    ),
  limit: positiveInt.optional().describe('Use only the first so many prompts.'),
  seed: seed
    .default(0)
    .describe(
      'Seed of the evaluation images; the same for every model, so that scores compare image by image.',
    ),
  metrics: z
    .array(metricSchema)
    .default([])
    .describe('Judges. The mean of the first one decides which iteration is best.'),
  sampling: evaluationSamplingSchema
    .default({})
    .describe('Overrides of `sampling` for evaluation.'),
});

export const bucketsSchema = z.strictObject({
  step: positiveInt
    .max(1024)
    .default(64)
    .describe(
      'Pixels of which sides are multiples. The VAE and the U-Net must halve such sides evenly: for Stable Diffusion 1.x and 2.x it is a multiple of 64, for XL of 32; data.resolution must be a multiple of it.',
    ),
  max_ratio: z
    .number()
    .gt(1)
    .max(16)
    .default(2)
    .describe('Longer side by shorter one, at most; what is beyond it is cut to the last size.'),
});

export const runConfigSchema = z
  .strictObject({
    $schema: z.string().optional().describe('Ignored; lets editors find the schema.'),
    name: z
      .string()
      .regex(/^[a-z0-9][a-z0-9-]{0,39}$/)
      .default('run')
      .describe('Prefix of the run id: lower-case letters, digits and "-".'),
    model: modelFolder(
      "Base model: a Stable Diffusion 1.x, 2.x or XL pipeline in diffusers' folder format (model_index.json, unet, vae, text_encoder, tokenizer, scheduler).",
    ),
    data: z
      .strictObject({
        path: z
          .string()
          .min(1)
          .describe(
            'A folder or a file, local or s3://bucket/…, "*" allowed in its last part: a Hugging Face image folder (metadata.jsonl or metadata.csv with file_name and text), WebDataset tar shards, parquet files (Pick-a-Pic, or any), a CSV or TSV file, or a file of prompts (with data.images).',
          ),
        format: z
          .enum(['auto', 'folder', 'webdataset', 'pickapic', 'parquet', 'csv', 'prompts'])
          .default('auto')
          .describe('What lies there; "auto" tells by the names of the files and by the columns.'),
        image_column: z
          .string()
          .min(1)
          .optional()
          .describe(
            'parquet, CSV: column with the (chosen) image, as bytes or as a path; WebDataset: suffix of its members ("chosen.jpg"). Default: the first usual name.',
          ),
        rejected_column: z
          .string()
          .min(1)
          .optional()
          .describe('The same for the image that was not preferred. Default: none.'),
        caption_column: z
          .string()
          .min(1)
          .optional()
          .describe(
            'Column with the caption; WebDataset: suffix of its members, or key in their .json. Default: the first usual name.',
          ),
        images: z
          .string()
          .min(1)
          .optional()
          .describe(
            "Folder of images: what paths in a table are relative to (default: the table's own folder), or the image of every prompt of a file of prompts, named by the prompt's number from 0.",
          ),
        resize: z
          .enum(['bilinear', 'bicubic', 'lanczos'])
          .default('bilinear')
          .describe(
            'Filter that brings the shorter side to the resolution, antialiased; the papers use bilinear.',
          ),
        crop: z
          .enum(['center', 'random'])
          .default('center')
          .describe("Which square, or part of a bucket's size, of the resized image is taken."),
        buckets: bucketsSchema
          .optional()
          .describe(
            'Aspect-ratio buckets instead of squares: every image, and what is drawn against it, has the size whose aspect ratio is nearest to its own, of about resolution² pixels and never more. Default: off.',
          ),
        flip: z
          .boolean()
          .default(false)
          .describe(
            'Mirror images left to right at random, both of a pair alike; needs sampling.generated "pixels".',
          ),
        views: positiveInt
          .max(64)
          .default(1)
          .describe(
            'Differently cropped and mirrored copies of every image, which take turns by epoch; each is encoded and stored.',
          ),
        limit: positiveInt.optional().describe('Use only the first so many rows.'),
        resolution: positiveInt
          .max(4096)
          .optional()
          .describe(
            "Pixels per side; images are resized and cropped to it. Default: the model's own.",
          ),
      })
      .describe('The real images and their captions.'),
    objective: z
      .strictObject({
        loss: z
          .enum(['logistic', 'hinge', 'ipo'])
          .default('logistic')
          .describe(
            'Loss on the logit −(β/2)·[(e_real − e_real,opponent) − (e_gen − e_gen,opponent)]: softplus(−logit), relu(1 − logit) or (logit − ½)².',
          ),
        beta: perIteration(beta)
          .default(2000)
          .describe(
            'β: how far the model may move from its opponent; larger is more cautious. A list gives one per iteration.',
          ),
        auto_beta: autoBeta.describe(
          'Lowers β while training so that the mean pair keeps at least this slope of the logistic loss (it is ½ at first, and 0 where pairs saturate); 0.2 is a start. Default: off.',
        ),
        opponent: z
          .enum(['previous', 'initial', 'random', 'ema'])
          .default('previous')
          .describe(
            'Who draws the images and is the reference in iteration k: the model of iteration k − 1, the base, one of the base and the iterations so far, drawn by the seed, or the moving average of iteration k − 1 (needs train.ema_decay).',
          ),
        safeguard: safeguard.describe(
          "Winner safeguard μ (Diffusion-SDPO): scales the generated image's gradient so that, to first order, the real image's error still falls by this share of what it would fall by alone. 0 keeps it from rising. Default: off.",
        ),
      })
      .prefault({})
      .describe('What training optimises.'),
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
        'Held-out prompts and judges. Without it nothing is scored and the last iteration counts as best.',
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
        'Stop before the last iteration when the held-out score no longer improves. Training then waits for the evaluation of its opponent.',
      ),
    precision: z
      .enum(['auto', 'float32', 'bfloat16'])
      .default('auto')
      .describe('Arithmetic of the U-Net; "auto" takes the faster one, measured at start-up.'),
    seed: seed.default(0).describe('Seed of the whole run: noise, shuffling, timesteps.'),
    max_missing: rate
      .default(0.05)
      .describe(
        "Share of a stage's items that may be lost (broken images, jobs that failed three times) before the run fails.",
      ),
    resources: z
      .strictObject({
        shared_device: z
          .boolean()
          .default(true)
          .describe(
            'Training and sampling use the same device (one machine): training waits until the samplers are done. false: they overlap.',
          ),
        encode_shard_size: positiveInt.max(4096).default(64).describe('Images per encode job.'),
      })
      .prefault({})
      .describe('How work is laid out on the machines.'),
  })
  .meta({ title: 'Spindle run config' });

export type RunConfigInput = z.input<typeof runConfigSchema>;
export type RunConfig = z.output<typeof runConfigSchema>;
export type TrainConfig = z.output<typeof trainSchema>;
export type SamplingConfig = z.output<typeof samplingSchema>;
