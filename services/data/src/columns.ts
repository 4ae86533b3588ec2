/** Columns and keys by their usual names, and what stands in them. */
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
  if (typeof cell === 'string') return cell;
  if (cell instanceof Uint8Array) return decodeText(cell, where);
  if (Array.isArray(cell)) return cell.length === 0 ? null : captionOf(cell[0], where);
  return null;
}
