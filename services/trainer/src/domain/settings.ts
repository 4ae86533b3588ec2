/**
 * The settings of a training, checked. A bad one is an Error whose message names the field, what
 * was expected and what was there.
 */
import {
  enumName,
  LearningRateSchedule,
  LearningRateScheduleSchema,
  LoraSettingsSchema,
  Objective,
  ObjectiveSchema,
  OnDivergence,
  TimestepWeight,
  TimestepWeightSchema,
  type LoraSettings,
  type TrainRequest,
  type TrainSettings,
} from '@spindle/proto';

/** The settings, with the two fields of the request that they belong with. */
export type TrainingSettings = TrainSettings & Pick<TrainRequest, 'objective' | 'iteration'>;

/** The kind of image that the objective pairs with each real one; null: it has no pairs. */
export function opponentImages(objective: Objective): 'generated' | 'rejected' | null {
  if (objective === Objective.SFT) return null;
  return objective === Objective.DPO ? 'rejected' : 'generated';
}

const leastCheckpoints = 2;

export function checkSettings(settings: TrainingSettings): TrainingSettings {
  const checked = {
    ...settings,
    schedule: settings.schedule || LearningRateSchedule.CONSTANT,
    timestepsPerPair: settings.timestepsPerPair || 1,
    timestepWeight: settings.timestepWeight || TimestepWeight.CONSTANT,
    onDivergence: settings.onDivergence || OnDivergence.WARN,
    gradientAccumulation: settings.gradientAccumulation || 1,
    keepCheckpoints: Math.max(leastCheckpoints, settings.keepCheckpoints),
  };
  atLeast('steps', checked.steps, 1);
  atLeast('batch_size', checked.batchSize, 1);
  if (checked.gradientAccumulation > checked.batchSize) {
    throw new Error(
      `settings.gradient_accumulation: expected at most batch_size (${checked.batchSize}), ` +
        `got ${checked.gradientAccumulation}`,
    );
  }
  positive('learning_rate', checked.learningRate);
  positive('adam_epsilon', checked.adamEpsilon);
  if (checked.objective !== Objective.SFT) positive('beta', checked.beta);
  if (checked.objective === Objective.SFT) {
    nothing('safeguard', checked.safeguard ?? 0);
    nothing('auto_beta_slope', checked.autoBetaSlope);
    if (checked.timestepsPerPair !== 1 || checked.timestepWeight !== TimestepWeight.CONSTANT) {
      throw new Error(
        'settings.timesteps_per_pair and timestep_weight: expected 1 and constant for this ' +
          `objective, which has no pairs, got ${checked.timestepsPerPair} and ` +
          enumName(TimestepWeightSchema, checked.timestepWeight),
      );
    }
    atLeast('min_snr_gamma', checked.minSnrGamma, 0);
  } else {
    nothing('min_snr_gamma', checked.minSnrGamma);
    fraction('safeguard', checked.safeguard ?? 0);
    if (!(checked.autoBetaSlope >= 0 && checked.autoBetaSlope < 0.5)) {
      throw new Error(
        'settings.auto_beta_slope: expected a number from 0 to below 0.5, ' +
          `got ${checked.autoBetaSlope}`,
      );
    }
  }
  if (checked.lora !== undefined) {
    atLeast('lora.rank', checked.lora.rank, 1);
    positive('lora.alpha', checked.lora.alpha);
    if (checked.lora.targets.length === 0) {
      throw new Error('settings.lora.targets: expected at least one layer, got none');
    }
  }
  if (checked.emaApart && checked.emaDecay === 0) {
    throw new Error('settings.ema_apart: expected an ema_decay, got 0');
  }
  if (checked.judgeEvery > 0 && checked.onDivergence === OnDivergence.ROLLBACK) {
    throw new Error(
      'settings.judge_every: expected 0 with on_divergence rollback, whose steps may come twice, ' +
        `got ${checked.judgeEvery}`,
    );
  }
  decay('adam_beta1', checked.adamBeta1);
  decay('adam_beta2', checked.adamBeta2);
  decay('ema_decay', checked.emaDecay);
  atLeast('weight_decay', checked.weightDecay, 0);
  atLeast('max_grad_norm', checked.maxGradNorm, 0);
  fraction('caption_dropout', checked.captionDropout);
  return checked;
}

function atLeast(field: string, value: number, minimum: number): void {
  if (!(value >= minimum && Number.isFinite(value))) {
    throw new Error(`settings.${field}: expected a number of at least ${minimum}, got ${value}`);
  }
}

function positive(field: string, value: number): void {
  if (!(value > 0 && Number.isFinite(value))) {
    throw new Error(`settings.${field}: expected a positive number, got ${value}`);
  }
}

function fraction(field: string, value: number): void {
  if (!(value >= 0 && value <= 1)) {
    throw new Error(`settings.${field}: expected a number from 0 to 1, got ${value}`);
  }
}

function nothing(field: string, value: number): void {
  if (value !== 0) {
    throw new Error(`settings.${field}: expected nothing for this objective, got ${value}`);
  }
}

function decay(field: string, value: number): void {
  if (!(value >= 0 && value < 1)) {
    throw new Error(`settings.${field}: expected a number in [0, 1), got ${value}`);
  }
}

/**
 * The settings that must not change between a checkpoint and the run that resumes from it, as
 * texts. Old checkpoints hold the same texts, so their form is fixed: enums by name but for the
 * precision, "null" for a setting that is not there. Settings that came later are told where they
 * are not what training did before them.
 */
export function fingerprint(
  settings: TrainingSettings,
  data: Readonly<Record<string, string>>,
): Record<string, string> {
  const {
    checkpointSteps: _often,
    keepCheckpoints: _kept,
    gradientAccumulation: _pieces,
    activationCheckpointing: _how,
    onDivergence: _do,
    maxRollbacks: _most,
    judgeEvery: _judged,
    timestepsPerPair,
    timestepWeight,
    $unknown: _unread,
    ...fixed
  } = settings;
  const texts = {
    ...fixed,
    objective: enumName(ObjectiveSchema, fixed.objective),
    schedule: enumName(LearningRateScheduleSchema, fixed.schedule),
    safeguard: fixed.safeguard ?? null,
    lora: fixed.lora === undefined ? null : loraText(fixed.lora),
    ...(timestepsPerPair > 1 && { timestepsPerPair }),
    ...(timestepWeight > TimestepWeight.CONSTANT && {
      timestepWeight: enumName(TimestepWeightSchema, timestepWeight),
    }),
  };
  return {
    ...Object.fromEntries(Object.entries(texts).map(([key, value]) => [key, String(value)])),
    ...data,
  };
}

function loraText(lora: LoraSettings): string {
  const values = LoraSettingsSchema.fields.map(({ localName }) => [
    localName,
    lora[localName as keyof LoraSettings],
  ]);
  return JSON.stringify(Object.fromEntries(values));
}

/** The first field in which two fingerprints differ, in words; null when they agree. */
export function firstDifference(
  kept: Readonly<Record<string, string>>,
  asked: Readonly<Record<string, string>>,
): string | null {
  for (const key of new Set([...Object.keys(kept), ...Object.keys(asked)])) {
    if (kept[key] !== asked[key]) {
      return `${key}: expected ${kept[key] ?? 'nothing'}, got ${asked[key] ?? 'nothing'}`;
    }
  }
  return null;
}
