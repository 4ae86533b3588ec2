/** Held-out prompts as a run stores them: a JSON array, which gateway and samplers read. */
import { brief, SpindleError } from '@spindle/kit';
import type { HeldOutPrompt } from './prompt-set.js';

/** A bare string where there is no category, as runs have always had them. */
export function writePromptList(prompts: readonly HeldOutPrompt[]): string {
  return JSON.stringify(
    prompts.map(({ prompt, category }) => (category === '' ? prompt : { prompt, category })),
  );
}

/** The inverse of writePromptList; DATA_LOSS for what is no such list. */
export function parsePromptList(json: string): HeldOutPrompt[] {
  let list: unknown;
  try {
    list = JSON.parse(json);
  } catch {
    list = undefined;
  }
  if (!Array.isArray(list)) throw unreadable(`a JSON array, got ${json.slice(0, 60)}`);
  return list.map((entry: unknown, index) => {
    if (typeof entry === 'string') return { prompt: entry, category: '' };
    const { prompt, category } = (entry ?? {}) as Partial<HeldOutPrompt>;
    if (typeof prompt === 'string' && typeof category === 'string') return { prompt, category };
    throw unreadable(
      `a text, or {"prompt": text, "category": text}, at ${index}, got ${brief(entry)}`,
    );
  });
}

function unreadable(expected: string): SpindleError {
  return new SpindleError('DATA_LOSS', `list of prompts: expected ${expected}`);
}
