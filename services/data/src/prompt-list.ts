/** Held-out prompts as a run stores them: a JSON array, which gateway and samplers read. */
import { SpindleError } from '@spindle/kit';
import { kindOf } from './shown.js';
import type { HeldOutPrompt } from './prompt-set.js';

/** A bare string where there is neither category nor set, as runs have always had them. */
export function writePromptList(prompts: readonly HeldOutPrompt[]): string {
  return JSON.stringify(
    prompts.map(({ prompt, category, set }) =>
      category === '' && set === undefined
        ? prompt
        : { prompt, category, ...(set !== undefined && { set }) },
    ),
  );
}

/** The inverse of writePromptList; DATA_LOSS for what is no such list. */
export function parsePromptList(json: string): HeldOutPrompt[] {
  let list: unknown;
  try {
    list = JSON.parse(json);
  } catch {
    throw unreadable('a JSON array, got text that does not parse');
  }
  if (!Array.isArray(list)) throw unreadable(`a JSON array, got ${kindOf(list)}`);
  return list.map((entry: unknown, index) => {
    if (typeof entry === 'string') return { prompt: entry, category: '' };
    const { prompt, category, set } = (entry ?? {}) as Partial<HeldOutPrompt>;
    if (
      typeof prompt === 'string' &&
      typeof category === 'string' &&
      (set === undefined || typeof set === 'string')
    )
      return { prompt, category, ...(set !== undefined && { set }) };
    throw unreadable(
      `a text, or {"prompt": text, "category": text, "set": text}, at ${index}, got ` +
        kindOf(entry),
    );
  });
}

function unreadable(expected: string): SpindleError {
  return new SpindleError('DATA_LOSS', `list of prompts: expected ${expected}`);
}
