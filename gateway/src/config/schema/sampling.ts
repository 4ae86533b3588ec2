/** `sampling`: how images are drawn. */
import { samplingDefaults } from '@spindle/proto';
import { z } from 'zod';
import { positiveInt, rate } from './values.js';

const defaultStrength = 0.5;

export const samplingSchema = z.strictObject({
  scheduler: z
    .enum([
      'DDIMScheduler',
      'DDPMScheduler',
      'PNDMScheduler',
      'DPMSolverMultistepScheduler',
      'UniPCMultistepScheduler',
      'EulerDiscreteScheduler',
      'EulerAncestralDiscreteScheduler',
      'HeunDiscreteScheduler',
      'LCMScheduler',
    ])
    .optional()
    .describe(
      "Sampler, by diffusers' class name. Default: the model's own " +
        '(scheduler/scheduler_config.json). DPM++ 2M SDE Karras is DPMSolverMultistepScheduler ' +
        'with overrides {algorithm_type: sde-dpmsolver++, use_karras_sigmas: true}; ' +
        'HeunDiscreteScheduler calls the model twice per step.',
    ),
  overrides: z
    .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))
    .default({})
    .describe('Keys that override scheduler_config.json, e.g. {use_karras_sigmas: true}.'),
  steps: positiveInt
    .max(1000)
    .default(samplingDefaults.steps)
    .describe('Denoising steps per image.'),
  guidance_scale: z
    .number()
    .min(1)
    .max(100)
    .default(samplingDefaults.guidanceScale)
    .describe('Classifier-free guidance: uncond + scale · (cond − uncond); 1 switches it off.'),
  eta: rate.default(0).describe("DDIM's eta; 0 is deterministic."),
  generated: z
    .enum(['latents', 'pixels'])
    .default('latents')
    .describe(
      '"latents": train on what the sampler ends with. "pixels": decode it, round to 8 bits ' +
        'and encode again, as real images are and as the original scripts do; slower.',
    ),
  generated_from: z
    .enum(['noise', 'image'])
    .default('noise')
    .describe(
      '"noise": draw generated images from noise. "image": from their real image, noised as far ' +
        "as `strength` says (diffusers' image-to-image pipelines); cheaper by as much. Evaluation " +
        'always draws from noise.',
    ),
  strength: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe(
      'With generated_from "image": the share of the steps that is taken, rounded down to whole ' +
        'steps; 1 noises the real image as far as the first step of all. Default: ' +
        `${defaultStrength}.`,
    ),
  previous_share: rate
    .default(0)
    .describe(
      'Share of the draws, from the second iteration on, whose generated image is one that ' +
        'the opponent of the iteration before drew.',
    ),
  ema: z
    .boolean()
    .default(false)
    .describe(
      'Draw all images of trained models by the moving average of their weights (needs ' +
        'train.ema_decay), while iterations go on from the weights.',
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

export type SamplingConfig = z.output<typeof samplingSchema>;

/** How far real images are noised before drawing starts from them; undefined: from noise. */
export function strengthOf({
  generated_from: from,
  strength = defaultStrength,
}: Pick<SamplingConfig, 'generated_from' | 'strength'>): number | undefined {
  return from === 'image' ? strength : undefined;
}

/** The denoising steps that are taken per image, as diffusers counts them. */
export function stepsTaken(
  sampling: Pick<SamplingConfig, 'generated_from' | 'strength' | 'steps'>,
): number {
  return Math.floor(sampling.steps * (strengthOf(sampling) ?? 1));
}
