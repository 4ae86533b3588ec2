/**
 * Prompts of a file that is no table: one per line (.txt), one JSON value per line (.jsonl), or a
 * JSON array of strings or of {prompt, category}, or {category: [prompt, …]} as HPSv2's benchmark
 * is published.
 */
import { SpindleError } from '@spindle/kit';
import type { Files } from './files.js';
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

export async function readPromptFile(files: Files, path: string): Promise<WrittenPrompt[]> {
  switch (/\.([^.]*)$/.exec(path.toLowerCase())?.[1]) {
    case 'json':
      return fromJson(await readText(files, path), path);
    case 'jsonl':
    case 'ndjson':
      return fromJsonLines(files, path);
    default:
      return fromLines(files, path);
  }
}

async function fromLines(files: Files, path: string): Promise<WrittenPrompt[]> {
  const prompts: WrittenPrompt[] = [];
  for await (const { text, line } of readLines(files, path)) {
    const prompt = text.trim();
    if (prompt !== '') prompts.push({ prompt, category: '', line });
  }
  return prompts;
}

async function fromJsonLines(files: Files, path: string): Promise<WrittenPrompt[]> {
  const prompts: WrittenPrompt[] = [];
  for await (const { text, line } of readLines(files, path)) {
    if (text.trim() === '') continue;
    const value = parse(text, `${path}:${line}`, 'one JSON value per line');
    prompts.push({ ...entryOf(value, `${path}:${line}`), line });
  }
  return prompts;
}

function fromJson(text: string, path: string): WrittenPrompt[] {
  const value = parse(text, path, 'a JSON array of prompts');
  if (Array.isArray(value)) {
    return value.map((entry: unknown, line) => ({
      ...entryOf(entry, `${path}: entry ${line}`),
      line,
    }));
  }
  if (typeof value !== 'object' || value === null) {
    throw invalid(path, `expected a JSON array of prompts, got ${kindOf(value)}`);
  }
  return Object.entries(value)
    .flatMap(([category, list]: [string, unknown]) => {
      if (!Array.isArray(list)) {
        throw invalid(`${path}: ${category}`, `expected a list of prompts, got ${kindOf(list)}`);
      }
      return list.map((entry: unknown, i) => ({
        ...entryOf(entry, `${path}: ${category}: entry ${i}`),
        category,
      }));
    })
    .map((entry, line) => ({ ...entry, line }));
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
  if (typeof entry === 'string') return { prompt: entry, category: '' };
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
  return { prompt, category };
}

function invalid(where: string, what: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${where}: ${what}.`);
}
