/**
 * Held-out prompts as files: one per line, JSON, JSON lines, CSV or parquet, with a category each
 * where the file has one.
 */
import { SpindleError } from '@spindle/kit';
import { askedColumn, captionOf, usualColumn } from './columns.js';
import { readCsvRows } from './csv.js';
import type { Files } from './files.js';
import { ParquetFile } from './parquet.js';
import { categoryKeys, promptKeys, readPromptFile } from './prompt-file.js';
import { shownColumns } from './shown.js';

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
    case 'csv':
    case 'tsv':
      return once(await fromCsv(files, path, columns));
    case 'parquet':
      return once(await fromParquet(files, path, columns));
    default:
      return (await readPromptFile(files, path)).map(({ prompt, category }) => ({
        prompt,
        category,
      }));
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
    (header) => (names = namesOf(path, header, columns, shownColumns(header))),
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
  const text = (value: unknown): string => captionOf(value, path) ?? '';
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
