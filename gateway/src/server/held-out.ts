/** The held-out prompts of a run: those that are reported, then those that models are chosen by. */
import { readPromptSet, type Files, type HeldOutPrompt } from '@spindle/data';
import { SpindleError } from '@spindle/kit';
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
  const others = await readPromptSet(files, path, columnsOf(evaluation));
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
  return readPromptSet(files, evaluation.prompts, columnsOf(evaluation), evaluation.limit);
}

/** A fifth, drawn by a hash of their places: the file may be sorted. */
function setApart(prompts: readonly HeldOutPrompt[]): HeldOut {
  const select = prompts.length < 2 * share ? 0 : Math.floor(prompts.length / share);
  const drawn = prompts
    .map((_, index) => ({ index, key: imageSeed(0, 'select', index) }))
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .slice(0, select);
  const apart = new Set(drawn.map(({ index }) => index));
  return {
    prompts: [
      ...prompts.filter((_, index) => !apart.has(index)),
      ...prompts.filter((_, index) => apart.has(index)),
    ],
    select,
    warnings: [],
  };
}

/** Of both files, which have the same form. */
function columnsOf(evaluation: NonNullable<RunConfig['evaluation']>) {
  return { prompt: evaluation.prompt_column, category: evaluation.category_column };
}
