/** The held-out prompts of a run: those that are reported, then those that models are chosen by. */
import { readPromptSet, type Files, type HeldOutPrompt } from '@spindle/data';
import { SpindleError } from '@spindle/kit';
import { promptFiles } from '../config/prompt-files.js';
import type { RunConfig } from '../config/schema.js';
import { imageSeed } from '../domain/seeds.js';

export interface HeldOut {
  prompts: HeldOutPrompt[];
  /** The last so many are chosen by. */
  select: number;
  warnings: string[];
}

/** One of so many prompts is set apart for choosing, where there are at least twice as many. */
const share = 5;

/** None without evaluation; throws INVALID_ARGUMENT naming the key. */
export async function readHeldOut({ evaluation }: RunConfig, files: Files): Promise<HeldOut> {
  if (!evaluation) return { prompts: [], select: 0, warnings: [] };
  const prompts = await readPrompts({ evaluation }, files);
  // Without judges nothing is chosen by scores.
  if (evaluation.metrics.length === 0) return { prompts, select: 0, warnings: [] };
  const { prompts: path, limit } = evaluation.select;
  if (path === undefined) return setApart(prompts);
  const others = await readPromptSet(files, path, {
    columns: columnsOf(evaluation),
    key: 'evaluation.select.prompts',
  });
  const reported = new Set(prompts.map(({ prompt }) => prompt));
  const own = others.filter(({ prompt }) => !reported.has(prompt)).slice(0, limit ?? others.length);
  if (own.length === 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `evaluation.select.prompts: ${path}: expected at least one prompt that is not in ` +
        `evaluation.prompts, got ${others.length} that all are.`,
    );
  const twice = others.filter(({ prompt }) => reported.has(prompt)).length;
  return {
    prompts: [...prompts, ...own],
    select: own.length,
    warnings:
      twice === 0
        ? []
        : [
            `evaluation.select.prompts: ${twice} of ${others.length} prompts are reported too; ` +
              'models are chosen by the others.',
          ],
  };
}

/** Those of `evaluation.prompts` alone, in their order. */
export async function readPrompts(
  { evaluation }: Pick<RunConfig, 'evaluation'>,
  files: Files,
): Promise<HeldOutPrompt[]> {
  if (!evaluation) return [];
  const columns = columnsOf(evaluation);
  const prompts: HeldOutPrompt[] = [];
  for (const { key, set, file, limit } of promptFiles(evaluation.prompts, evaluation.limit)) {
    const own = await readPromptSet(files, file, { columns, limit, key });
    // A prompt of two sets stays in both.
    for (const one of own) prompts.push(set === undefined ? one : { ...one, set });
  }
  return prompts;
}

/** A fifth of each set, drawn by a hash of their places: the file may be sorted. */
function setApart(prompts: readonly HeldOutPrompt[]): HeldOut {
  const places = new Map<string | undefined, number[]>();
  for (const [index, { set }] of prompts.entries()) {
    const own = places.get(set);
    if (own === undefined) places.set(set, [index]);
    else own.push(index);
  }
  const apart = new Set<number>();
  for (const own of places.values()) {
    const count = own.length < 2 * share ? 0 : Math.floor(own.length / share);
    const drawn = own
      .map((index) => ({ index, key: imageSeed(0, 'select', index) }))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
      .slice(0, count);
    for (const { index } of drawn) apart.add(index);
  }
  const select = apart.size;
  return {
    prompts: [
      ...prompts.filter((_, index) => !apart.has(index)),
      ...prompts.filter((_, index) => apart.has(index)),
    ],
    select,
    warnings: [],
  };
}

/** Of all files, which have the same form. */
function columnsOf(evaluation: NonNullable<RunConfig['evaluation']>) {
  return { prompt: evaluation.prompt_column, category: evaluation.category_column };
}
