/**
 * Held-out prompts as files: one per line, JSON, CSV or parquet, with a category each where the
 * file has one.
 */
import { SpindleError } from '@spindle/kit';
import { readCsvRows } from './csv.js';
import { readText, type Files } from './files.js';
import { ParquetFile } from './parquet.js';

/** A prompt that no training image has, for evaluation. */
export interface HeldOutPrompt {
  prompt: string;
  /** Empty without. */
  category: string;
}

export interface PromptColumns {
  prompt?: string | undefined;
  category?: string | undefined;
}

const promptColumns = ['prompt', 'caption', 'text'];
const categoryColumns = ['category', 'style'];

/** Tables name a prompt once per pair of images (Pick-a-Pic): there it counts once. */
export async function readPromptSet(
  files: Files,
  path: string,
  columns: PromptColumns = {},
): Promise<HeldOutPrompt[]> {
  const found = await files.find(path).catch(() => null);
  if (found?.kind !== 'file')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `evaluation.prompts: expected a file, got "${path}", which cannot be read.`,
    );
  const prompts = await read(files, path, columns);
  if (prompts.length === 0)
    throw new SpindleError('INVALID_ARGUMENT', `${path}: expected at least one prompt, got none.`);
  return prompts;
}

async function read(files: Files, path: string, columns: PromptColumns): Promise<HeldOutPrompt[]> {
  switch (/\.([^.]*)$/.exec(path.toLowerCase())?.[1]) {
    case 'json':
      return fromJson(await readText(files, path), path);
    case 'csv':
    case 'tsv':
      return once(await fromCsv(files, path, columns));
    case 'parquet':
      return once(await fromParquet(files, path, columns));
    default:
      return (await readText(files, path))
        .split(/\r?\n/)
        .map((line) => ({ prompt: line.trim(), category: '' }))
        .filter(({ prompt }) => prompt !== '');
  }
}

function fromJson(text: string, path: string): HeldOutPrompt[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected a JSON array of prompts, got text that does not parse.`,
    );
  }
  if (Array.isArray(value))
    return value.map((entry: unknown, i) => entryOf(entry, `${path}: entry ${i}`));
  if (typeof value !== 'object' || value === null)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected a JSON array of prompts, got ${value === null ? 'null' : typeof value}.`,
    );
  // {category: [prompt, ...]}: HPSv2's benchmark, style by style.
  return Object.entries(value).flatMap(([category, list]: [string, unknown]) => {
    if (!Array.isArray(list))
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: ${category}: expected a list of prompts, got ${JSON.stringify(list)}.`,
      );
    return list.map((entry: unknown, i) => ({
      ...entryOf(entry, `${path}: ${category}: entry ${i}`),
      category,
    }));
  });
}

function entryOf(entry: unknown, where: string): HeldOutPrompt {
  if (typeof entry === 'string') return { prompt: entry, category: '' };
  const { prompt, category } = (typeof entry === 'object' && entry !== null ? entry : {}) as {
    prompt?: unknown;
    category?: unknown;
  };
  if (typeof prompt !== 'string')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: expected a string or {prompt}, got ${JSON.stringify(entry)}.`,
    );
  if (category !== undefined && typeof category !== 'string')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: category: expected a string, got ${JSON.stringify(category)}.`,
    );
  return { prompt, category: category ?? '' };
}

interface Names {
  prompt: string;
  category: string | undefined;
}

function namesOf(path: string, columns: readonly string[], asked: PromptColumns): Names {
  const find = (
    key: string,
    name: string | undefined,
    usual: readonly string[],
  ): string | undefined => {
    if (name === undefined)
      return usual.flatMap((one) => columns.filter((column) => column.toLowerCase() === one))[0];
    if (!columns.includes(name))
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: ${key}: expected one of ${columns.join(', ')}, got "${name}".`,
      );
    return name;
  };
  const prompt = find('evaluation.prompt_column', asked.prompt, promptColumns);
  if (prompt === undefined)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected a column ${promptColumns.join(', ')}, got ${columns.join(', ')}.`,
    );
  return { prompt, category: find('evaluation.category_column', asked.category, categoryColumns) };
}

async function fromCsv(
  files: Files,
  path: string,
  columns: PromptColumns,
): Promise<HeldOutPrompt[]> {
  let names: Names = { prompt: '', category: undefined };
  const prompts: HeldOutPrompt[] = [];
  for await (const { row } of readCsvRows(
    files,
    path,
    (header) => (names = namesOf(path, header, columns)),
  ))
    prompts.push({
      prompt: (row[names.prompt] ?? '').trim(),
      category: names.category === undefined ? '' : (row[names.category] ?? ''),
    });
  return prompts;
}

async function fromParquet(
  files: Files,
  path: string,
  columns: PromptColumns,
): Promise<HeldOutPrompt[]> {
  const file = await ParquetFile.open(files, path);
  const names = namesOf(path, file.columns, columns);
  const wanted = [names.prompt, ...(names.category === undefined ? [] : [names.category])];
  const prompts: HeldOutPrompt[] = [];
  const text = (value: unknown): string => (typeof value === 'string' ? value : '');
  for (let group = 0; group + 1 < file.groups.length; group++)
    for (const row of await file.readGroup(group, wanted))
      prompts.push({
        prompt: text(row[names.prompt]).trim(),
        category: names.category === undefined ? '' : text(row[names.category]),
      });
  return prompts;
}

function once(prompts: readonly HeldOutPrompt[]): HeldOutPrompt[] {
  const seen = new Set<string>();
  return prompts.filter(({ prompt }) => {
    if (prompt === '' || seen.has(prompt)) return false;
    seen.add(prompt);
    return true;
  });
}
