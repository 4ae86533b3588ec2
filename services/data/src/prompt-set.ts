/**
 * Held-out prompts as files: one per line, JSON, JSON lines, CSV or parquet, with a category each
 * where the file has one.
 */
import { SpindleError } from '@spindle/kit';
import { askedColumn, captionOf, checkedCaption, usualColumn } from './columns.js';
import { readCsvRows } from './csv.js';
import type { Files } from './files.js';
import { mostPrompts } from './limits.js';
import { ParquetFile } from './parquet.js';
import { categoryKeys, promptKeys, promptsOf } from './prompt-file.js';
import { shownColumns } from './shown.js';

/** A prompt that no training image has, for evaluation. */
export interface HeldOutPrompt {
  prompt: string;
  /** Empty without. */
  category: string;
  /** Of several named sets, the one that it is in. */
  set?: string;
}

export interface PromptColumns {
  prompt?: string | undefined;
  category?: string | undefined;
}

export interface PromptSetOptions {
  columns?: PromptColumns;
  limit?: number | undefined;
  /** The config's key of the file, for messages. */
  key?: string;
}

/**
 * The first `limit` prompts of a file. Tables name a prompt once per pair of images (Pick-a-Pic):
 * there it counts once.
 */
export async function readPromptSet(
  files: Files,
  path: string,
  { columns = {}, limit, key = 'evaluation.prompts' }: PromptSetOptions = {},
): Promise<HeldOutPrompt[]> {
  const found = await files.find(path).catch(() => null);
  if (found?.kind !== 'file')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${key}: expected a file, got "${path}", which cannot be read.`,
    );
  const prompts: HeldOutPrompt[] = [];
  for await (const { prompt, category } of read(files, path, columns)) {
    if (prompts.length === mostPrompts)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: expected at most ${mostPrompts} prompts, got more; ${limitKey(key)} takes the ` +
          'first of them.',
      );
    prompts.push({ prompt, category });
    if (prompts.length === limit) break;
  }
  if (prompts.length === 0)
    throw new SpindleError('INVALID_ARGUMENT', `${path}: expected at least one prompt, got none.`);
  return prompts;
}

/** Beside the only file's key, or inside of a named set. */
function limitKey(key: string): string {
  return key.endsWith('.prompts') ? key.replace(/prompts$/, 'limit') : `${key}.limit`;
}

function read(files: Files, path: string, columns: PromptColumns): AsyncIterable<HeldOutPrompt> {
  switch (/\.([^.]*)$/.exec(path.toLowerCase())?.[1]) {
    case 'csv':
    case 'tsv':
      return once(fromCsv(files, path, columns));
    case 'parquet':
      return once(fromParquet(files, path, columns));
    default:
      return promptsOf(files, path);
  }
}

interface Names {
  prompt: string;
  category: string | undefined;
}

function namesOf(
  path: string,
  columns: readonly string[],
  asked: PromptColumns,
  shown = columns.join(', '),
): Names {
  const find = (
    key: string,
    name: string | undefined,
    usual: readonly string[],
  ): string | undefined => {
    if (name === undefined) return usualColumn(usual, columns);
    const found = askedColumn(name, columns);
    if (found === undefined) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: ${key}: expected one of ${shown}, got "${name}".`,
      );
    }
    return found;
  };
  const prompt = find('evaluation.prompt_column', asked.prompt, promptKeys);
  if (prompt === undefined)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected a column ${promptKeys.join(', ')}, got ${shown}.`,
    );
  return { prompt, category: find('evaluation.category_column', asked.category, categoryKeys) };
}

async function* fromCsv(
  files: Files,
  path: string,
  columns: PromptColumns,
): AsyncIterable<HeldOutPrompt> {
  let names: Names = { prompt: '', category: undefined };
  for await (const { row, line } of readCsvRows(
    files,
    path,
    (header) => (names = namesOf(path, header, columns, shownColumns(header))),
  ))
    yield {
      prompt: checkedCaption((row[names.prompt] ?? '').trim(), `${path}:${line}`),
      category: names.category === undefined ? '' : (row[names.category] ?? ''),
    };
}

async function* fromParquet(
  files: Files,
  path: string,
  columns: PromptColumns,
): AsyncIterable<HeldOutPrompt> {
  const file = await ParquetFile.open(files, path);
  const names = namesOf(path, file.columns, columns);
  const wanted = [names.prompt, ...(names.category === undefined ? [] : [names.category])];
  const text = (value: unknown): string => captionOf(value, path) ?? '';
  for (let group = 0; group + 1 < file.groups.length; group++)
    for (const row of await file.readGroup(group, wanted))
      yield {
        prompt: text(row[names.prompt]).trim(),
        category: names.category === undefined ? '' : text(row[names.category]),
      };
}

/** Prompts that are not empty, each where it comes first. */
async function* once(prompts: AsyncIterable<HeldOutPrompt>): AsyncIterable<HeldOutPrompt> {
  const seen = new Set<string>();
  for await (const one of prompts) {
    if (one.prompt === '' || seen.has(one.prompt)) continue;
    seen.add(one.prompt);
    yield one;
  }
}
