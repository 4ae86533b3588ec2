/**
 * scheduler_config.json. diffusers hands such a file from class to class, and each reads its own
 * keys: another class's have no effect.
 */
import { all, engineOnly, noEffect, read, type ConfigKeys, type KeyRules } from './rules.js';

export const schedulerClasses = [
  'DDIMScheduler',
  'DDPMScheduler',
  'PNDMScheduler',
  'DPMSolverMultistepScheduler',
  'UniPCMultistepScheduler',
  'EulerDiscreteScheduler',
  'EulerAncestralDiscreteScheduler',
  'HeunDiscreteScheduler',
  'LCMScheduler',
] as const;
export type SchedulerClass = (typeof schedulerClasses)[number];

/** Not sampled with, but their noise comes from the same betas: others may stand in for them. */
export const otherSchedulers: readonly string[] = [
  ...['DDPMParallelScheduler', 'DDIMParallelScheduler', 'DEISMultistepScheduler'],
  ...['DPMSolverSinglestepScheduler', 'DPMSolverSDEScheduler', 'KDPM2DiscreteScheduler'],
  ...['KDPM2AncestralDiscreteScheduler', 'LMSDiscreteScheduler', 'SASolverScheduler'],
  'TCDScheduler',
];

/** What the model was trained with: read for sampling and for training, whatever the class. */
const noise: KeyRules = {
  ...all(
    [
      ...['num_train_timesteps', 'beta_start', 'beta_end', 'beta_schedule', 'trained_betas'],
      'prediction_type',
    ],
    read,
  ),
  timestep_type: engineOnly('discrete'),
  use_flow_sigmas: engineOnly(false, null),
};

const spacing = all(['timestep_spacing', 'steps_offset'], read);
const unlessThresholding = all(
  ['dynamic_thresholding_ratio', 'sample_max_value'],
  noEffect('it is of thresholding, which is refused'),
);

/** Its own kinds of sigmas that are not computed. */
const otherSigmas = all(['use_exponential_sigmas', 'use_beta_sigmas'], engineOnly(false, null));
const clipping = all(['clip_sample', 'clip_sample_range'], read);
const notOfLcm = noEffect('its timesteps are of original_inference_steps');

const own: Readonly<Record<SchedulerClass, KeyRules>> = {
  DDIMScheduler: {
    ...spacing,
    ...clipping,
    ...all(['set_alpha_to_one', 'rescale_betas_zero_snr'], read),
    thresholding: engineOnly(false, null),
    ...unlessThresholding,
  },
  DDPMScheduler: {
    ...spacing,
    ...clipping,
    rescale_betas_zero_snr: read,
    variance_type: read,
    thresholding: engineOnly(false, null),
    ...unlessThresholding,
  },
  PNDMScheduler: {
    ...spacing,
    ...all(['skip_prk_steps', 'set_alpha_to_one'], read),
    // No key of the class: a config that sets it was meant for another one.
    rescale_betas_zero_snr: engineOnly(false, null),
  },
  DPMSolverMultistepScheduler: {
    ...spacing,
    ...all(
      [
        ...['solver_order', 'solver_type', 'lower_order_final', 'euler_at_final'],
        ...['use_karras_sigmas', 'final_sigmas_type', 'rescale_betas_zero_snr'],
        'algorithm_type',
      ],
      read,
    ),
    ...otherSigmas,
    ...all(['thresholding', 'use_lu_lambdas', 'use_dynamic_shifting'], engineOnly(false, null)),
    lambda_min_clipped: engineOnly(Number.NEGATIVE_INFINITY),
    variance_type: engineOnly(null),
    flow_shift: noEffect('it is of use_flow_sigmas, which is refused'),
    time_shift_type: noEffect('it is of use_dynamic_shifting, which is refused'),
    ...unlessThresholding,
  },
  UniPCMultistepScheduler: {
    ...spacing,
    ...all(
      [
        ...['solver_order', 'solver_type', 'lower_order_final', 'disable_corrector'],
        ...['use_karras_sigmas', 'final_sigmas_type', 'rescale_betas_zero_snr'],
      ],
      read,
    ),
    ...otherSigmas,
    ...all(['thresholding', 'use_dynamic_shifting'], engineOnly(false, null)),
    predict_x0: engineOnly(true),
    ...all(['solver_p', 'sigma_min', 'sigma_max', 'shift_terminal'], engineOnly(null)),
    flow_shift: noEffect('it is of use_flow_sigmas, which is refused'),
    time_shift_type: noEffect('it is of use_dynamic_shifting, which is refused'),
    ...unlessThresholding,
  },
  EulerDiscreteScheduler: {
    ...spacing,
    ...all(['use_karras_sigmas', 'final_sigmas_type', 'rescale_betas_zero_snr'], read),
    ...otherSigmas,
    interpolation_type: engineOnly('linear'),
    ...all(['sigma_min', 'sigma_max'], engineOnly(null)),
  },
  EulerAncestralDiscreteScheduler: { ...spacing, rescale_betas_zero_snr: read },
  HeunDiscreteScheduler: {
    ...spacing,
    ...clipping,
    use_karras_sigmas: read,
    ...otherSigmas,
    // No key of the class: a config that sets it was meant for another one.
    rescale_betas_zero_snr: engineOnly(false, null),
  },
  LCMScheduler: {
    ...clipping,
    ...all(['original_inference_steps', 'timestep_scaling', 'rescale_betas_zero_snr'], read),
    timestep_spacing: notOfLcm,
    steps_offset: notOfLcm,
    set_alpha_to_one: noEffect('its last step ends at the data itself'),
    thresholding: engineOnly(false, null),
    ...unlessThresholding,
  },
};

/** Keys that other classes alone know. */
const foreign: readonly string[] = [
  ...['predictor_order', 'corrector_order', 'tau_func', 'noise_sampler_seed'],
];

const everyKey = [
  ...new Set([...Object.values(own).flatMap((rules) => Object.keys(rules)), ...foreign]),
];
export const notOfClass = noEffect('another class reads it, as in diffusers');

function keysOf(of: string, rules: KeyRules): ConfigKeys {
  return {
    file: 'scheduler/scheduler_config.json',
    of,
    library: 'diffusers',
    keys: { ...all(everyKey, notOfClass), ...noise, ...rules },
  };
}

/** Of the classes that we sample with. */
export const sampledSchedulerKeys = Object.fromEntries(
  schedulerClasses.map((name) => [name, keysOf(name, own[name])]),
) as Readonly<Record<SchedulerClass, ConfigKeys>>;

/** Of the others, whose betas alone we read. */
export const otherSchedulerKeys: ConfigKeys = keysOf('a scheduler', {
  rescale_betas_zero_snr: read,
  ...all(
    everyKey.filter((key) => key !== 'rescale_betas_zero_snr' && !(key in noise)),
    noEffect('we do not sample with the class; a class that stands in for it reads its own keys'),
  ),
});

export function schedulerKeys(className: unknown): ConfigKeys {
  const known = schedulerClasses.find((name) => name === className);
  return known === undefined ? otherSchedulerKeys : sampledSchedulerKeys[known];
}

/** Whether a class that we sample with knows the key, if only to refuse values of it. */
export function isSampledKey(key: string): boolean {
  return !foreign.includes(key) && (everyKey.includes(key) || key in noise);
}
