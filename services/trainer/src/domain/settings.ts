/**
 * What a training run does, checked; throws Error with a sentence that names field, expected and
 * got.
 */
export type Objective = 'spin_logistic' | 'spin_hinge' | 'spin_ipo' | 'dpo' | 'sft';
export type Schedule = 'constant' | 'linear' | 'cosine';

export interface TrainingSettings {
  objective: Objective;
  schedule: Schedule;
  iteration: number;
  steps: number;
  batchSize: number;
  gradientAccumulation: number;
  learningRate: number;
  warmupSteps: number;
  beta: number;
  adamBeta1: number;
  adamBeta2: number;
  adamEpsilon: number;
  weightDecay: number;
  maxGradNorm: number;
  emaDecay: number;
  captionDropout: number;
  /** 0: only when cancelled. */
  checkpointSteps: number;
  keepCheckpoints: number;
  seed: bigint;
  samplePosterior: boolean;
  /** Share of the draws that take an image of the iteration before. */
  previousShare: number;
  /** Share of the real image's improvement that must remain; null: no safeguard. */
  safeguard: number | null;
  /** 0: every timestep weighs the same. */
  minSnrGamma: number;
  /** 0: beta stays as it is. */
  autoBetaSlope: number;
  /** How memory is used; no result depends on it. */
  activationCheckpointing: boolean;
  /** Null: the weights themselves are trained. */
  lora: { rank: number; alpha: number; targets: string[] } | null;
  /** The moving average is a result beside the weights. */
  emaApart: boolean;
  onDivergence: 'warn' | 'stop' | 'rollback';
  maxRollbacks: number;
}

/** What the real images are told from. */
export function opponentImages(objective: Objective): 'generated' | 'rejected' | null {
  if (objective === 'sft') return null;
  return objective === 'dpo' ? 'rejected' : 'generated';
}

const leastCheckpoints = 2;

export function checkSettings(settings: TrainingSettings): TrainingSettings {
  const checked = {
    ...settings,
    gradientAccumulation: settings.gradientAccumulation || 1,
    keepCheckpoints: Math.max(leastCheckpoints, settings.keepCheckpoints),
  };
  atLeast('steps', checked.steps, 1);
  atLeast('batch_size', checked.batchSize, 1);
  if (checked.gradientAccumulation > checked.batchSize) {
    throw new Error(
      `settings.gradient_accumulation: expected at most batch_size (${checked.batchSize}), got ${checked.gradientAccumulation}`,
    );
  }
  positive('learning_rate', checked.learningRate);
  positive('adam_epsilon', checked.adamEpsilon);
  if (checked.objective !== 'sft') positive('beta', checked.beta);
  if (checked.objective === 'sft') {
    nothing('safeguard', checked.safeguard ?? 0);
    nothing('auto_beta_slope', checked.autoBetaSlope);
    atLeast('min_snr_gamma', checked.minSnrGamma, 0);
  } else {
    nothing('min_snr_gamma', checked.minSnrGamma);
    fraction('safeguard', checked.safeguard ?? 0);
    if (!(checked.autoBetaSlope >= 0 && checked.autoBetaSlope < 0.5)) {
      throw new Error(
        `settings.auto_beta_slope: expected a number from 0 to below 0.5, got ${checked.autoBetaSlope}`,
      );
    }
  }
  if (checked.lora !== null) {
    atLeast('lora.rank', checked.lora.rank, 1);
    positive('lora.alpha', checked.lora.alpha);
    if (checked.lora.targets.length === 0)
      throw new Error('settings.lora.targets: expected at least one layer, got none');
  }
  if (checked.emaApart && checked.emaDecay === 0)
    throw new Error('settings.ema_apart: expected an ema_decay, got 0');
  share('adam_beta1', checked.adamBeta1);
  share('adam_beta2', checked.adamBeta2);
  share('ema_decay', checked.emaDecay);
  atLeast('weight_decay', checked.weightDecay, 0);
  atLeast('max_grad_norm', checked.maxGradNorm, 0);
  fraction('caption_dropout', checked.captionDropout);
  return checked;
}

function atLeast(field: string, value: number, minimum: number): void {
  if (!(value >= minimum && Number.isFinite(value)))
    throw new Error(`settings.${field}: expected a number of at least ${minimum}, got ${value}`);
}

function positive(field: string, value: number): void {
  if (!(value > 0 && Number.isFinite(value)))
    throw new Error(`settings.${field}: expected a positive number, got ${value}`);
}

function fraction(field: string, value: number): void {
  if (!(value >= 0 && value <= 1))
    throw new Error(`settings.${field}: expected a number from 0 to 1, got ${value}`);
}

function nothing(field: string, value: number): void {
  if (value !== 0)
    throw new Error(`settings.${field}: expected nothing for this objective, got ${value}`);
}

function share(field: string, value: number): void {
  if (!(value >= 0 && value < 1))
    throw new Error(`settings.${field}: expected a number in [0, 1), got ${value}`);
}

/** What must not change between a checkpoint and the run that resumes from it. */
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
    ...fixed
  } = settings;
  return {
    ...Object.fromEntries(Object.entries(fixed).map(([key, value]) => [key, text(value)])),
    ...data,
  };
}

function text(value: TrainingSettings[keyof TrainingSettings]): string {
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** The first field in which two fingerprints differ, in words; null when they agree. */
export function firstDifference(
  kept: Readonly<Record<string, string>>,
  asked: Readonly<Record<string, string>>,
): string | null {
  for (const key of new Set([...Object.keys(kept), ...Object.keys(asked)])) {
    if (kept[key] !== asked[key])
      return `${key}: expected ${kept[key] ?? 'nothing'}, got ${asked[key] ?? 'nothing'}`;
  }
  return null;
}
