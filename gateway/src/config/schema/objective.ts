/** `objective`: what training optimises. */
import { z } from 'zod';
import { perIteration, positiveInt, rate } from './values.js';

export const beta = z.number().gt(0);
export const safeguard = rate.optional();
export const timestepsPerPair = positiveInt.max(1_000_000).default(1);
export const timestepWeight = z.enum(['constant', 'paper', 'min_snr']).default('constant');
export const autoBeta = z.number().gt(0).lt(0.5).optional();

export const objectiveSchema = z.strictObject({
  loss: z
    .enum(['logistic', 'hinge', 'ipo'])
    .default('logistic')
    .describe(
      'Loss on the logit −(β/2)·[(e_real − e_real,opponent) − (e_gen − e_gen,opponent)]: ' +
        'softplus(−logit), relu(1 − logit) or (logit − ½)². IPO lies outside of ' +
        "SPIN-Diffusion's theory, which asks for a loss that is convex and never rises.",
    ),
  beta: perIteration(beta)
    .default(2000)
    .describe(
      'β: how far the model may move from its opponent; larger is more cautious. A list gives ' +
        'one per iteration.',
    ),
  auto_beta: autoBeta.describe(
    'Lowers β while training so that the mean pair keeps at least this slope of the logistic ' +
      'loss (it is ½ at first, and 0 where pairs saturate); 0.2 is a start. Default: off.',
  ),
  timesteps_per_pair: timestepsPerPair.describe(
    'Timesteps whose mean is the logit of a pair. 1: the approximate objective of the paper ' +
      '(4.9), which its experiments use; all of the model: its exact one (4.8). A step takes k ' +
      'times as long and a quarter more, in the memory of 1. On a GPU it is asked for kernel by ' +
      'kernel.',
  ),
  timestep_weight: timestepWeight.describe(
    'How much the errors at a timestep t count. "paper": h_t² of (C.6), as one β_t for all t ' +
      'makes it; "min_snr": min(snr, 5)/snr, or /(snr + 1) for v prediction. Weights are scaled ' +
      'so that their mean over t is 1, and β means the same with each.',
  ),
  opponent: z
    .enum(['previous', 'initial', 'random', 'ema'])
    .default('previous')
    .describe(
      'Who draws the images and is the reference in iteration k: the model of iteration k − ' +
        '1, the base, one of the base and the iterations so far, drawn by the seed, or the ' +
        'moving average of iteration k − 1 (needs train.ema_decay).',
    ),
  refresh_steps: positiveInt
    .optional()
    .describe(
      'Within an iteration the opponent is taken anew every so many steps: it is what training ' +
        'would leave then (with train.ema_decay the moving average), and the images that the ' +
        'next steps read are drawn by it. Optimiser, schedule, average and order of rows go on. ' +
        'Needs the previous opponent, and disk for a U-Net and a training state per part (with ' +
        'LoRA, the state is that of the adapters). Not for baselines. Default: one opponent per ' +
        'iteration, as with at least train.steps.',
    ),
  keep_if: z
    .strictObject({
      metric: z.string().min(1).describe('Name of one of evaluation.metrics.'),
      margin: z
        .number()
        .default(0)
        .describe(
          'A pair is kept if the score of its generated image is at most so much above that of its ' +
            'real one, in the units of the metric. Negative: the real one must be better by so much.',
        ),
    })
    .optional()
    .describe(
      'Judges the generated and the real image of every pair before training, which goes over the ' +
        'pairs that are kept: their shuffled epochs, until the steps are done. Those that are left ' +
        'out are counted in the report. Costs the decoding and judging of two images per pair, and ' +
        'their PNGs on disk. Not for baselines. Default: off, all pairs are kept.',
    ),
  safeguard: safeguard.describe(
    "Winner safeguard μ (Diffusion-SDPO): scales the generated image's gradient so that, to " +
      "first order, the real image's error still falls by this share of what it would fall by " +
      'alone. 0 keeps it from rising. Default: off.',
  ),
});
