import { statSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, type NativePrecision } from '@spindle/native';
import { describe, isObject, readJsonObject, stringField, type JsonObject } from '../files/json.js';

export const nativeKinds: ReadonlySet<string> = new Set([
  'unet',
  'vae',
  'clip_text',
  'clip',
  'image_reward',
  'scheduler',
  'train_step',
  'rng',
]);
export const typescriptKinds: ReadonlySet<string> = new Set([
  'tokenizer',
  'image_preprocess',
  'pipeline',
]);

export interface Tolerance {
  relL2: number | null;
  maxAbs: number | null;
}

export interface Fixture {
  directory: string;
  kind: string;
  json: JsonObject;
}

export function readFixture(directory: string): Fixture {
  if (!statSync(directory, { throwIfNoEntry: false })?.isDirectory())
    throw invalid(directory, "expected a fixture's folder, got no such folder");
  const file = join(directory, 'fixture.json');
  const json = readJsonObject(file);
  const kind = stringField(json, 'kind', file);
  if (!nativeKinds.has(kind) && !typescriptKinds.has(kind)) {
    throw invalid(
      file,
      `kind: expected ${[...nativeKinds, ...typescriptKinds].join(', ')}, got ` +
        JSON.stringify(kind),
    );
  }
  return { directory, kind, json };
}

export function statesTolerance(fixture: Fixture, precision: NativePrecision): boolean {
  const tolerance = fixture.json['tolerance'];
  return isObject(tolerance) && isObject(tolerance[precision]);
}

export function toleranceOf(fixture: Fixture, precision: NativePrecision): Tolerance {
  const file = join(fixture.directory, 'fixture.json');
  const all = fixture.json['tolerance'];
  const bounds = isObject(all) ? all[precision] : undefined;
  if (!isObject(bounds))
    throw invalid(file, `tolerance.${precision}: expected an object, got ${describe(bounds)}`);
  const bound = (key: string): number | null => {
    const value = bounds[key];
    if (value === undefined) return null;
    if (typeof value !== 'number')
      throw invalid(
        file,
        `tolerance.${precision}.${key}: expected a number, got ${describe(value)}`,
      );
    return value;
  };
  const tolerance = { relL2: bound('rel_l2'), maxAbs: bound('max_abs') };
  if (tolerance.relL2 === null && tolerance.maxAbs === null)
    throw invalid(file, `tolerance.${precision}: expected rel_l2 or max_abs, got neither`);
  return tolerance;
}

/** Where the expected tensor is zero, the bound is on the size of what was computed. */
export function compare(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
): { relL2: number; maxAbs: number; ok: boolean } {
  let difference = 0;
  let norm = 0;
  let maxAbs = 0;
  // Missing elements count as zeros and fail the comparison by their length.
  for (let i = 0; i < Math.max(got.length, expected.length); i++) {
    const delta = (got[i] ?? 0) - (expected[i] ?? 0);
    difference += delta * delta;
    norm += (expected[i] ?? 0) ** 2;
    // NaN, once met, stays.
    maxAbs = Math.max(maxAbs, Math.abs(delta));
  }
  const relL2 = Math.sqrt(difference) / (norm === 0 ? 1 : Math.sqrt(norm));
  const within = (value: number, bound: number | null): boolean => bound === null || value <= bound;
  return {
    relL2,
    maxAbs,
    ok:
      got.length === expected.length &&
      within(relL2, tolerance.relL2) &&
      within(maxAbs, tolerance.maxAbs),
  };
}
