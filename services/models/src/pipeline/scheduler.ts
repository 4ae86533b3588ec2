/** scheduler_config.json: reading it, and what sampling with it or with another class makes of it. */
import { join } from 'node:path';
import { invalid } from '@spindle/native';
import { modelPath } from '@spindle/kit';
import {
  describe,
  isObject,
  parseJson,
  readJsonObject,
  stringField,
  stringifyJson,
  type JsonObject,
  type JsonValue,
} from '../files/json.js';

export const schedulerClasses = [
  'DDIMScheduler',
  'PNDMScheduler',
  'DPMSolverMultistepScheduler',
  'EulerDiscreteScheduler',
] as const;

/** Not sampled with, but their noise comes from the same betas: others may stand in for them. */
const otherSchedulers = [
  ...['DDPMScheduler', 'DDPMParallelScheduler', 'DDIMParallelScheduler', 'LCMScheduler'],
  ...['UniPCMultistepScheduler', 'DEISMultistepScheduler', 'DPMSolverSinglestepScheduler'],
  ...['DPMSolverSDEScheduler', 'EulerAncestralDiscreteScheduler', 'HeunDiscreteScheduler'],
  ...['KDPM2DiscreteScheduler', 'KDPM2AncestralDiscreteScheduler', 'LMSDiscreteScheduler'],
  ...['SASolverScheduler', 'TCDScheduler'],
];

/**
 * The scheduler's folder. Its class may be one that we cannot sample with: resolveScheduler looks
 * at that, and its betas serve all the same.
 */
export function readScheduler(path: string): JsonObject {
  const file = join(modelPath(path).directory, 'scheduler_config.json');
  const config = readJsonObject(file);
  const name = stringField(config, '_class_name', file);
  if (!isKnownScheduler(name) && !otherSchedulers.includes(name))
    throw invalid(
      file,
      `_class_name: expected ${schedulerClasses.join(', ')}, got ${describe(name)}`,
    );
  return config;
}

/** Whether we sample with this class. */
export function isKnownScheduler(name: JsonValue | undefined): boolean {
  return schedulerClasses.some((known) => known === name);
}

export function checkSchedulerClass(name: JsonValue | undefined, where: string, hint = ''): void {
  if (isKnownScheduler(name)) return;
  throw invalid(
    where,
    `_class_name: expected ${schedulerClasses.join(', ')}, got ${describe(name)}${hint}`,
  );
}

/** Of a class that we do not know, what the four that we know read: the rest is its own. */
const sharedSchedulerKeys: ReadonlySet<string> = new Set([
  ...['num_train_timesteps', 'beta_start', 'beta_end', 'beta_schedule', 'trained_betas'],
  ...['prediction_type', 'timestep_spacing', 'steps_offset', 'rescale_betas_zero_snr'],
  ...['clip_sample', 'clip_sample_range', 'set_alpha_to_one', 'thresholding', 'skip_prk_steps'],
  ...['solver_order', 'solver_type', 'algorithm_type', 'lower_order_final', 'euler_at_final'],
  ...['use_karras_sigmas', 'use_exponential_sigmas', 'use_beta_sigmas', 'use_flow_sigmas'],
  ...['use_lu_lambdas', 'final_sigmas_type', 'lambda_min_clipped', 'variance_type'],
  ...['use_dynamic_shifting', 'interpolation_type', 'sigma_min', 'sigma_max', 'timestep_type'],
]);

/** Values of other classes in keys of the same name; diffusers takes its default for them. */
const foreignSchedulerValues: ReadonlySet<JsonValue> = new Set<JsonValue>([
  ...['bh1', 'bh2', 'logrho', 'deis'],
  ...['fixed_small', 'fixed_small_log', 'fixed_large', 'fixed_large_log'],
]);

function withoutForeignKeys(config: JsonObject): JsonObject {
  if (isKnownScheduler(config['_class_name'])) return config;
  return Object.fromEntries(
    Object.entries(config).filter(
      ([key, value]) =>
        key.startsWith('_') || (sharedSchedulerKeys.has(key) && !foreignSchedulerValues.has(value)),
    ),
  );
}

/**
 * The config that sampling uses: the pipeline's, another class if named, then overrides; as the
 * addon reads it. `where` names the pipeline's own in errors.
 */
export function resolveScheduler(
  base: JsonObject,
  className: string,
  overridesJson: string,
  where = 'scheduler_config.json',
): string {
  const overrides =
    overridesJson === '' ? {} : parseJson(overridesJson, 'scheduler_overrides_json');
  if (!isObject(overrides))
    throw invalid('scheduler_overrides_json', `expected a JSON object, got ${describe(overrides)}`);
  if (className !== '') checkSchedulerClass(className, 'scheduler');
  if (className === '' || className === base['_class_name']) {
    const config = { ...base, ...overrides };
    checkSchedulerClass(
      config['_class_name'],
      where,
      '; name one of these instead with --scheduler or, in a run, sampling.scheduler',
    );
    return stringifyJson(config);
  }
  // DDIM was made for pixels and clips to [-1, 1] unless told; a config of another class does not
  // say that latents have no such range.
  const clipping =
    className === 'DDIMScheduler' && base['clip_sample'] === undefined
      ? { clip_sample: false }
      : {};
  return stringifyJson({
    ...withoutForeignKeys(base),
    ...clipping,
    _class_name: className,
    ...overrides,
  });
}
