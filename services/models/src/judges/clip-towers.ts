import { invalid } from '@spindle/native';
import { describe, isObject, type JsonObject } from '../files/json.js';

/**
 * A tower's part of a CLIP model's config. Old files say it twice: the library fills the second one
 * up with its defaults, and lets all of that win.
 */
export function towerOf(config: JsonObject, key: string, file: string): JsonObject {
  const tower = config[`${key}_dict`] ?? config[key] ?? {};
  if (!isObject(tower)) throw invalid(file, `${key}: expected an object, got ${describe(tower)}`);
  return tower;
}
