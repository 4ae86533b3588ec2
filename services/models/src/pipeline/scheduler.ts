/**
 * scheduler_config.json: reading it, and what sampling with it or with another class makes of it.
 */
import { join } from 'node:path';
import { invalid } from '@spindle/native';
import { modelPath } from '@spindle/kit';
import { checkKeys, ruleOf } from '../config-keys/rules.js';
import {
  isSampledKey,
  notOfClass,
  otherSchedulers,
  sampledSchedulerKeys,
  schedulerClasses,
  schedulerKeys,
} from '../config-keys/schedulers.js';
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

/**
 * The scheduler's folder. Its class may be one that we cannot sample with: resolveScheduler looks
 * at that, and its betas serve all the same.
 */
export function readScheduler(path: string, warn: (message: string) => void): JsonObject {
  const file = join(modelPath(path).directory, 'scheduler_config.json');
  const config = readJsonObject(file);
  const name = stringField(config, '_class_name', file);
  checkAnyScheduler(name, file, '_class_name');
  checkKeys(config, schedulerKeys(name), file).forEach(warn);
  return sampledKeys(config);
}

/** Whose betas we know, though we may not sample with it. */
export function checkAnyScheduler(name: string, where: string, field: string): void {
  if (isKnownScheduler(name) || otherSchedulers.includes(name)) return;
  throw invalid(where, `${field}: expected ${schedulerClasses.join(', ')}, got ${describe(name)}`);
}

/** The engine takes the keys of the classes that it samples with, and no others. */
function sampledKeys(config: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(config).filter(([key]) => key.startsWith('_') || isSampledKey(key)),
  );
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

/** Of other classes, in keys of DPMSolverMultistepScheduler: it takes its default for them. */
const foreignSchedulerValues: ReadonlySet<JsonValue> = new Set<JsonValue>([
  ...['bh1', 'bh2', 'logrho', 'deis'],
  ...['fixed_small', 'fixed_small_log', 'fixed_large', 'fixed_large_log'],
]);

/** A class's config in the hands of another class. */
export function handedTo(className: string, config: JsonObject): JsonObject {
  const kept = Object.entries(sampledKeys(config)).filter(
    ([, value]) =>
      className !== 'DPMSolverMultistepScheduler' || !foreignSchedulerValues.has(value),
  );
  return { ...Object.fromEntries(kept), _class_name: className };
}

/** A key that the class does not read is a typing error, or was meant for another class. */
function checkOverrides(overrides: JsonObject, className: JsonValue | undefined): void {
  const name = schedulerClasses.find((known) => known === className);
  if (name === undefined) return;
  for (const [key, value] of Object.entries(overrides)) {
    const rule = ruleOf(sampledSchedulerKeys[name], key);
    if (key === '_class_name' || (rule !== undefined && rule !== notOfClass)) continue;
    const known = Object.entries(sampledSchedulerKeys[name].keys)
      .filter(([, other]) => other.kind === 'read')
      .map(([other]) => other);
    throw invalid(
      'overrides',
      `${key}: expected a key that ${name} reads (${known.join(', ')}), got this one with value ` +
        describe(value),
    );
  }
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
    checkOverrides(overrides, config['_class_name']);
    checkSchedulerClass(
      config['_class_name'],
      where,
      '; name one of these instead with --scheduler or, in a run, sampling.scheduler',
    );
    return stringifyJson(config);
  }
  // DDIM and DDPM were made for pixels and clip to [-1, 1] unless told; a config of another class
  // does not say that latents have no such range.
  const clipping =
    ['DDIMScheduler', 'DDPMScheduler'].includes(className) && base['clip_sample'] === undefined
      ? { clip_sample: false }
      : {};
  const config: JsonObject = { ...handedTo(className, base), ...clipping, ...overrides };
  checkOverrides(overrides, config['_class_name']);
  return stringifyJson(config);
}
