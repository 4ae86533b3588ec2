/** The files of `evaluation.prompts`: one without a name, or named sets. */
import type { RunConfig } from './schema.js';

type Prompts = NonNullable<RunConfig['evaluation']>['prompts'];

export interface PromptFile {
  /** The key that names it. */
  key: string;
  /** Undefined for the only file. */
  set: string | undefined;
  file: string;
  limit: number | undefined;
}

/** `limit` is that of the only file; sets have their own. */
export function promptFiles(prompts: Prompts, limit?: number): PromptFile[] {
  const key = 'evaluation.prompts';
  if (typeof prompts === 'string') return [{ key, set: undefined, file: prompts, limit }];
  return Object.entries(prompts).map(([set, one]) => ({
    key: `${key}.${set}`,
    set,
    ...(typeof one === 'string' ? { file: one, limit: undefined } : { limit: undefined, ...one }),
  }));
}

/** The same value with other paths. */
export function withPaths(prompts: Prompts, at: (path: string) => string): Prompts {
  if (typeof prompts === 'string') return at(prompts);
  return Object.fromEntries(
    Object.entries(prompts).map(([set, one]) => [
      set,
      typeof one === 'string' ? at(one) : { ...one, file: at(one.file) },
    ]),
  );
}
