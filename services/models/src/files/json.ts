/**
 * JSON as Python's json module writes it: `Infinity`, `-Infinity` and `NaN` stand for themselves
 * (diffusers' scheduler configs hold them), which JSON.parse refuses.
 */
import { readFileSync, statSync } from 'node:fs';
import { brief } from '@spindle/kit';
import { EngineError, invalid } from '@spindle/native';

export type JsonValue = string | number | boolean | null | JsonValue[] | JsonObject;
export interface JsonObject {
  [key: string]: JsonValue;
}

/** Python's own reader gives up at about so many lists and objects in each other. */
const deepest = 900;
/** Beside a word these would become a number with what stands in its place. */
const partOfNumber = /[\w.]/;
/** Stands for NaN until the text is parsed. */
const marker = '\u0000spindle:NaN';

export function parseJson(text: string, where: string): JsonValue {
  try {
    const { json, notNumbers } = asPlainJson(text);
    if (notNumbers === 0) return JSON.parse(json) as JsonValue;
    let revived = 0;
    const value = JSON.parse(json, (_key, item: unknown) => {
      if (item !== marker) return item;
      revived += 1;
      return NaN;
    }) as JsonValue;
    if (revived !== notNumbers) throw new Error('a string that stands for NaN');
    return value;
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

/**
 * The text with a number that JSON.parse reads as Infinity in the place of that word, and a marker
 * in that of NaN. Words within strings stay.
 */
function asPlainJson(text: string): { json: string; notNumbers: number } {
  const parts: string[] = [];
  let notNumbers = 0;
  let depth = 0;
  let copied = 0;
  const replace = (at: number, word: string, by: string): number => {
    const isAlone = !partOfNumber.test((text[at - 1] ?? '') + (text[at + word.length] ?? ''));
    if (!isAlone || !text.startsWith(word, at)) return at;
    parts.push(text.slice(copied, at), by);
    copied = at + word.length;
    return copied - 1;
  };
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === '"') at = endOfString(text, at);
    else if (character === '[' || character === '{') depth += 1;
    else if (character === ']' || character === '}') depth -= 1;
    else if (character === 'I') at = replace(at, 'Infinity', '1e999');
    else if (character === 'N') {
      const end = replace(at, 'NaN', JSON.stringify(marker));
      if (end !== at) notNumbers += 1;
      at = end;
    }
    if (depth > deepest) throw new Error(`more than ${deepest} lists and objects in each other`);
  }
  return { json: parts.length === 0 ? text : parts.join('') + text.slice(copied), notNumbers };
}

/** Of the quote that ends the string which begins at `start`; the text's end without one. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let before = end;
    while (text[before - 1] === '\\') before -= 1;
    if ((end - before) % 2 === 0) return end;
  }
  return text.length;
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

/** More than any tokenizer's; weights are not read as text. */
const maxTextBytes = 256 << 20;

/** Reads a file as text; a missing or unreadable one is the caller's bad input. */
export function readText(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > maxTextBytes)
      throw invalid(path, `expected at most ${maxTextBytes} bytes, got ${size}`);
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if (cause instanceof EngineError) throw cause;
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
  return brief(value);
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
