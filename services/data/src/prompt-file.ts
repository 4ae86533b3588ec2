/**
 * Prompts of a file that is no table: one per line (.txt), one JSON value per line (.jsonl), or a
 * JSON array of strings or of {prompt, category}, or {category: [prompt, …]} as HPSv2's benchmark
 * is published.
 */
import { SpindleError } from '@spindle/kit';
import { checkedCaption } from './columns.js';
import type { Files } from './files.js';
import { largestPromptFile } from './limits.js';
import { some } from './rows.js';
import { kindOf } from './shown.js';
import { readLines, readText } from './text.js';

/** A prompt with its place in the file. */
export interface WrittenPrompt {
  prompt: string;
  /** Empty without. */
  category: string;
  /** From 1, or the entry of an array from 0. */
  line: number;
}

/** Names of a prompt in an object, the first that is there. */
export const promptKeys = ['prompt', 'caption', 'text'];
/** Names of a prompt's category, the first that is there. */
export const categoryKeys = ['category', 'style'];

/** In the file's order; JSON alone is read as a whole. */
export function promptsOf(files: Files, path: string): AsyncIterable<WrittenPrompt> {
  switch (/\.([^.]*)$/.exec(path.toLowerCase())?.[1]) {
    case 'json':
      return fromJson(files, path);
    case 'jsonl':
    case 'ndjson':
      return fromJsonLines(files, path);
    default:
      return fromLines(files, path);
  }
}

async function* fromLines(files: Files, path: string): AsyncIterable<WrittenPrompt> {
  for await (const { text, line } of readLines(files, path)) {
    const prompt = checkedCaption(text.trim(), `${path}:${line}`);
    if (prompt !== '') yield { prompt, category: '', line };
  }
}

async function* fromJsonLines(files: Files, path: string): AsyncIterable<WrittenPrompt> {
  for await (const { text, line } of readLines(files, path)) {
    if (text.trim() === '') continue;
    const value = parse(text, `${path}:${line}`, 'one JSON value per line');
    yield { ...entryOf(value, `${path}:${line}`), line };
  }
}

async function* fromJson(files: Files, path: string): AsyncIterable<WrittenPrompt> {
  const text = await readText(files, path, largestPromptFile);
  const value = parse(text, path, 'a JSON array of prompts');
  if (Array.isArray(value)) {
    for (const [line, entry] of value.entries())
      yield { ...entryOf(entry, `${path}: entry ${line}`), line };
    return;
  }
  if (typeof value !== 'object' || value === null)
    throw invalid(path, `expected a JSON array of prompts, got ${kindOf(value)}`);
  let line = 0;
  for (const [category, list] of Object.entries(value)) {
    if (!Array.isArray(list))
      throw invalid(
        `${path}: ${some([category])}`,
        `expected a list of prompts, got ${kindOf(list)}`,
      );
    for (const [i, entry] of list.entries()) {
      const { prompt } = entryOf(entry, `${path}: ${some([category])}: entry ${i}`);
      yield { prompt, category, line: line++ };
    }
  }
}

function parse(text: string, where: string, expected: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's own words quote the text.
    throw invalid(where, `expected ${expected}, got text that does not parse`);
  }
}

function entryOf(entry: unknown, where: string): { prompt: string; category: string } {
  if (typeof entry === 'string') return { prompt: checkedCaption(entry, where), category: '' };
  const fields = new Map(
    typeof entry === 'object' && entry !== null
      ? Object.entries(entry as Record<string, unknown>)
      : [],
  );
  const first = (keys: readonly string[]): unknown =>
    keys.map((key) => fields.get(key)).find((value) => value !== undefined);
  const prompt = first(promptKeys);
  const category = first(categoryKeys) ?? '';
  if (typeof prompt !== 'string') {
    throw invalid(where, `expected a string or {prompt}, got ${kindOf(entry)}`);
  }
  if (typeof category !== 'string') {
    throw invalid(`${where}: category`, `expected a string, got ${kindOf(category)}`);
  }
  return { prompt: checkedCaption(prompt, where), category };
}

function invalid(where: string, what: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${where}: ${what}.`);
}
