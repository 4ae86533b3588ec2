/** In what two configs differ, and which of it a run that has begun can still take on. */
import { SpindleError } from '@spindle/kit';
import type { RunConfig } from './schema.js';

export interface Difference {
  /** Path of the key, e.g. "train.learning_rate". */
  key: string;
  /** JSON values; undefined where a side has no such key. */
  before: unknown;
  after: unknown;
}

/** Leaves only, in the order of the first config and then of what the second has more. */
export function configDifferences(before: unknown, after: unknown, path = ''): Difference[] {
  if (isSection(before) && isSection(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) =>
      configDifferences(before[key], after[key], path === '' ? key : `${path}.${key}`),
    );
  }
  return JSON.stringify(before) === JSON.stringify(after) ? [] : [{ key: path, before, after }];
}

function isSection(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function differenceText({ key, before, after }: Difference): string {
  return `${key}: ${valueText(before)} → ${valueText(after)}`;
}

function valueText(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value);
}

/** Keys that change how a run goes on, and nothing of what it has made or will make. */
const compatible = [
  /^\$schema$/,
  /^name$/,
  /^max_missing$/,
  /^stop(\.|$)/,
  /^resources\.shared_device$/,
  /^(train|baselines\.(sft|dpo))\.(checkpoint_steps|keep_checkpoints|gradient_accumulation|on_divergence|max_rollbacks)$/,
];

/**
 * The changes of a run's config from `before` to `after`. Throws INVALID_ARGUMENT, naming the first
 * key, for one that would make the rest of the run something else than its beginning.
 */
export function changesOnResume(before: RunConfig, after: RunConfig): Difference[] {
  const differences = configDifferences(before, after);
  for (const difference of differences) {
    const { key } = difference;
    if (compatible.some((pattern) => pattern.test(key))) continue;
    if (key === 'iterations' && after.iterations > before.iterations) continue;
    const expected =
      key === 'iterations' ? `at least ${before.iterations}` : valueText(difference.before);
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${key}: expected ${expected}, with which the run began, got ` +
        `${valueText(difference.after)}; start a new run for other settings.`,
    );
  }
  return differences;
}
