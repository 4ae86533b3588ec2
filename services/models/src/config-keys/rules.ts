/** What becomes of the keys of a model's configs, and the check of a file against that. */
import { invalid } from '@spindle/native';
import { describe, stringifyJson, type JsonObject, type JsonValue } from '../files/json.js';

/**
 * read: the number, shape or text follows it. refused: only these values are computed; others are
 * refused by name, by the engine or by the reader here. no effect: what is computed is the same
 * whatever it says.
 */
export type KeyRule =
  | { readonly kind: 'read' }
  | {
      readonly kind: 'refused';
      readonly unless: readonly JsonValue[];
      readonly by: 'engine' | 'reader';
    }
  | { readonly kind: 'no effect'; readonly why: string };

export type KeyRules = Readonly<Record<string, KeyRule>>;

/** The keys of one kind of config: every one that its library knows. */
export interface ConfigKeys {
  /** Of the docs, e.g. "unet/config.json". */
  readonly file: string;
  /** The class that the library makes of it. */
  readonly of: string;
  readonly library: 'diffusers' | 'transformers' | 'open_clip';
  readonly keys: KeyRules;
}

export const read: KeyRule = { kind: 'read' };

/** The engine refuses other values where it reads the config. */
export function engineOnly(...unless: JsonValue[]): KeyRule {
  return { kind: 'refused', unless, by: 'engine' };
}

/** `checkKeys` refuses other values. */
export function only(...unless: JsonValue[]): KeyRule {
  return { kind: 'refused', unless, by: 'reader' };
}

export function noEffect(why: string): KeyRule {
  return { kind: 'no effect', why };
}

/** One rule for several keys. */
export function all(keys: readonly string[], rule: KeyRule): KeyRules {
  return Object.fromEntries(keys.map((key) => [key, rule]));
}

export function ruleOf({ keys }: ConfigKeys, key: string): KeyRule | undefined {
  return Object.hasOwn(keys, key) ? keys[key] : undefined;
}

/**
 * Refuses what the reader refuses. Returns a warning where the file has keys that the library does
 * not know: those of a newer one, or a typing error. Keys that begin with "_" are the library's own
 * notes.
 */
export function checkKeys(config: JsonObject, known: ConfigKeys, file: string): string[] {
  const unknown: string[] = [];
  for (const [key, value] of Object.entries(config)) {
    if (key.startsWith('_')) continue;
    const rule = ruleOf(known, key);
    if (rule === undefined) unknown.push(key);
    else if (rule.kind === 'refused' && rule.by === 'reader') requireOneOf(key, value, rule, file);
  }
  return unknown.length === 0 ? [] : [unknownKeys(file, unknown, known)];
}

function requireOneOf(
  key: string,
  value: JsonValue,
  { unless }: Extract<KeyRule, { kind: 'refused' }>,
  file: string,
): void {
  const text = stringifyJson(value);
  if (unless.some((supported) => stringifyJson(supported) === text)) return;
  const named = unless.length > 1 ? unless.filter((supported) => supported !== null) : unless;
  throw invalid(
    file,
    `${key}: expected ${named.map(describe).join(' or ')} (other values are not supported), got ` +
      describe(value),
  );
}

function unknownKeys(file: string, keys: readonly string[], { of, library }: ConfigKeys): string {
  return (
    `${file}: ${keys.join(', ')}: no key of ${of} in ${library} as known here; what it asks for ` +
    'is not done'
  );
}
