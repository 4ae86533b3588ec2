/** Columns and keys by their usual names, and what stands in them. */
import { SpindleError } from '@spindle/kit';
import { longestCaption } from './limits.js';
import { decodeText } from './text.js';

/** Names of a caption in tables and in a sample's JSON, the first that is there. */
export const captionNames = ['caption', 'text', 'prompt'];

/** The first usual name that a table has: spelled so, else in another case. */
export function usualColumn(
  usual: readonly string[],
  columns: readonly string[],
): string | undefined {
  return (
    usual.find((name) => columns.includes(name)) ??
    usual.flatMap((name) => columns.filter((column) => column.toLowerCase() === name))[0]
  );
}

/** The column that was asked for: spelled so, else the only one that differs by case alone. */
export function askedColumn(asked: string, columns: readonly string[]): string | undefined {
  if (columns.includes(asked)) return asked;
  const alike = columns.filter((column) => column.toLowerCase() === asked.toLowerCase());
  return alike.length === 1 ? alike[0] : undefined;
}

/**
 * A cell as a caption: text, bytes of text (Spark, pandas), or a list of captions, of which the
 * first counts, as in diffusers' scripts at evaluation. Null where there is none.
 */
export function captionOf(cell: unknown, where: string): string | null {
  let value = cell;
  while (Array.isArray(value)) value = value[0] as unknown;
  if (typeof value === 'string') return checkedCaption(value, where);
  if (value instanceof Uint8Array) return checkedCaption(decodeText(value, where), where);
  return null;
}

/** Refuses a text that is too long for a caption or prompt. */
export function checkedCaption(text: string, where: string): string {
  if (text.length <= longestCaption) return text;
  throw new SpindleError(
    'INVALID_ARGUMENT',
    `${where}: expected a text of at most ${longestCaption} characters, got ${text.length}; ` +
      'shorten it, or leave it out (models read some 300).',
  );
}
