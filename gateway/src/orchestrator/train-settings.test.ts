import {
  LearningRateSchedule,
  TimestepWeight,
  TrainSettingsSchema,
  type TrainSettings,
} from '@spindle/proto';
import { parseConfig } from '@spindle/kit';
import { describe, expect, it } from 'vitest';
import { dpoTraining, sftTraining, spinTraining } from '../config/resolve.js';
import { runConfigSchema } from '../config/schema.js';
import { trainSchema } from '../config/schema/train.js';
import { trainSettings } from './train-settings.js';

type Field = Exclude<keyof TrainSettings, `$${string}`>;
type Sections = Record<string, unknown>;

function settingsOf(change: Sections, training: 'spin' | 'sft' = 'spin'): TrainSettings {
  const config = parseConfig(
    runConfigSchema,
    { model: 'm', data: { path: 'd' }, baselines: { sft: {} }, ...change },
    'config',
  );
  const train = training === 'sft' ? sftTraining(config) : spinTraining(config, 2);
  if (train === undefined) throw new Error('baselines.sft: expected settings, got none');
  return trainSettings(config, train, config.sampling.previous_share);
}

/** For every field, a config in which it is not what it is by default. */
const changes: Record<Field, Sections> = {
  steps: { train: { steps: 7 } },
  batchSize: { train: { batch_size: 7 } },
  gradientAccumulation: { train: { gradient_accumulation: 4 } },
  learningRate: { train: { learning_rate: [0.5, 0.25] } },
  schedule: { train: { schedule: 'cosine' } },
  warmupSteps: { train: { warmup_steps: 3 } },
  beta: { objective: { beta: [5, 6] } },
  adamBeta1: { train: { adam_beta1: 0.5 } },
  adamBeta2: { train: { adam_beta2: 0.5 } },
  adamEpsilon: { train: { adam_epsilon: 0.5 } },
  weightDecay: { train: { weight_decay: 0.5 } },
  maxGradNorm: { train: { max_grad_norm: 3 } },
  emaDecay: { train: { ema_decay: 0.5 } },
  captionDropout: { train: { caption_dropout: 0.5 } },
  checkpointSteps: { train: { checkpoint_steps: 7 } },
  keepCheckpoints: { train: { keep_checkpoints: 7 } },
  seed: { seed: 7 },
  precision: { precision: 'bfloat16' },
  samplePosterior: { train: { sample_posterior: true } },
  safeguard: { objective: { safeguard: 0.5 } },
  minSnrGamma: { baselines: { sft: { min_snr_gamma: 5 } } },
  autoBetaSlope: { objective: { auto_beta: 0.25 } },
  previousShare: { sampling: { previous_share: 0.5 } },
  activationCheckpointing: { train: { activation_checkpointing: true } },
  lora: { train: { lora: { rank: 4 } } },
  emaApart: { train: { ema_decay: 0.5 }, sampling: { ema: true } },
  onDivergence: { train: { on_divergence: 'rollback' } },
  timestepsPerPair: { objective: { timesteps_per_pair: 4 } },
  timestepWeight: { objective: { timestep_weight: 'paper' } },
  maxRollbacks: { train: { max_rollbacks: 7 } },
  judgeEvery: { train: { judge_every: [3, 7] } },
};

describe('settings of a training', () => {
  it.each(TrainSettingsSchema.fields.map(({ localName }) => localName as Field))(
    '%s is what the config says',
    (field) => {
      expect(Object.keys(changes)).toContain(field);
      const training = field === 'minSnrGamma' ? 'sft' : 'spin';
      const [changed, unchanged] = [changes[field], {}].map((c) => settingsOf(c, training)[field]);
      expect(changed).not.toEqual(unchanged);
    },
  );

  it('have a field for every key of `train`, under its name', () => {
    const names = TrainSettingsSchema.fields.map(({ name }) => name);
    // Of what is judged, and what of it is kept, the trainer knows nothing.
    const { judge_prompts: _prompts, keep: _keep, ...others } = trainSchema.shape;
    for (const key of Object.keys(others)) expect(names).toContain(key);
  });

  it("take a list's value of their iteration, and the rank for an alpha that is left open", () => {
    expect(settingsOf(changes.learningRate).learningRate).toBe(0.25);
    expect(settingsOf(changes.beta).beta).toBe(6);
    const lists = {
      ...{ steps: [7, 8], warmup_steps: [9, 10], batch_size: [4, 2] },
      schedule: ['cosine', 'constant'],
    };
    expect(settingsOf({ train: lists })).toMatchObject({
      ...{ steps: 8, warmupSteps: 10, batchSize: 2, schedule: LearningRateSchedule.CONSTANT },
    });
    expect(settingsOf(changes.lora).lora).toMatchObject({ rank: 4, alpha: 4 });
  });

  it('of Diffusion-DPO are its own where it has some', () => {
    const config = parseConfig(
      runConfigSchema,
      {
        ...{ model: 'm', data: { path: 'd' }, objective: { beta: 5, safeguard: 0.5 } },
        baselines: {
          dpo: { beta: 6, auto_beta: 0.25, learning_rate: 0.5, timestep_weight: 'min_snr' },
        },
      },
      'config',
    );
    const dpo = dpoTraining(config);
    expect(dpo && trainSettings(config, dpo)).toMatchObject({
      ...{ beta: 6, autoBetaSlope: 0.25, learningRate: 0.5, safeguard: 0.5, minSnrGamma: 0 },
      ...{ timestepsPerPair: 1, timestepWeight: TimestepWeight.MIN_SNR },
    });
  });
});
