/**
 * JSON as Python's json module writes it: `Infinity`, `-Infinity` and `NaN` stand for themselves
 * (diffusers' scheduler configs hold them), which JSON.parse refuses.
 */
import { readFileSync } from 'node:fs';
import { EngineError, invalid } from '@spindle/native';

export type JsonValue = string | number | boolean | null | JsonValue[] | JsonObject;
export interface JsonObject {
  [key: string]: JsonValue;
}

// Strings are matched first so that a word inside one is left alone.
const stringOrConstant = /"(?:[^"\\]|\\.)*"|-?Infinity\b|NaN\b/g;
const marker = '\u0000spindle:';

export function parseJson(text: string, where: string): JsonValue {
  const quoted = text.replace(stringOrConstant, (match) =>
    match.startsWith('"') ? match : JSON.stringify(marker + match),
  );
  try {
    return JSON.parse(quoted, (_key, value: unknown) =>
      typeof value === 'string' && value.startsWith(marker)
        ? Number(value.slice(marker.length))
        : value,
    ) as JsonValue;
  } catch (cause) {
    throw new EngineError(
      'INVALID_ARGUMENT',
      `${where}: expected JSON, got text that does not parse (${(cause as Error).message})`,
      {
        cause,
      },
    );
  }
}

/** JSON as Python writes it: NaN and Infinity stay, unlike JSON.stringify. */
export function stringifyJson(value: JsonValue): string {
  if (typeof value === 'number')
    return Number.isFinite(value) ? JSON.stringify(value) : String(value);
  if (Array.isArray(value)) return `[${value.map(stringifyJson).join(',')}]`;
  if (value !== null && typeof value === 'object') {
    return `{${Object.entries(value)
      .map(([key, item]) => `${JSON.stringify(key)}:${stringifyJson(item)}`)
      .join(',')}}`;
  }
  return JSON.stringify(value);
}

export function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads a file as text; a missing or unreadable one is the caller's bad input. */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const reason =
      (cause as NodeJS.ErrnoException).code === 'ENOENT'
        ? 'no such file'
        : (cause as Error).message;
    throw new EngineError('INVALID_ARGUMENT', `${path}: expected a readable file, got ${reason}`, {
      cause,
    });
  }
}

export function readJsonObject(path: string): JsonObject {
  const value = parseJson(readText(path), path);
  if (!isObject(value)) throw invalid(path, `expected a JSON object, got ${describe(value)}`);
  return value;
}

export function describe(value: JsonValue | undefined): string {
  if (value === undefined) return 'nothing';
  const text = stringifyJson(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** `fallback` is for an absent key: null is a value, which the libraries do not take for it. */
export function numberField(
  config: JsonObject,
  key: string,
  where: string,
  fallback?: number,
): number {
  const value = config[key] === undefined ? fallback : config[key];
  if (typeof value !== 'number')
    throw invalid(where, `${key}: expected a number, got ${describe(value)}`);
  return value;
}

export function stringField(
  config: JsonObject,
  key: string,
  where: string,
  fallback?: string,
): string {
  const value = config[key] === undefined ? fallback : config[key];
  if (typeof value !== 'string')
    throw invalid(where, `${key}: expected a string, got ${describe(value)}`);
  return value;
}
