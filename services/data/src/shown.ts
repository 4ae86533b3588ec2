/**
 * What messages say of a file that is not what it should be. They go into logs, and the file may be
 * another one than was meant: columns are named, values never are.
 */
import { some } from './rows.js';

/** How many columns a message names. */
const mostColumns = 30;

/** A header's names, where they look like such; else how many there are. */
export function shownColumns(columns: readonly string[]): string {
  const [first = ''] = columns;
  const single = columns.length === 1 && !loneColumns.includes(first.toLowerCase());
  if (!single && columns.every((name) => columnName.test(name))) return some(columns, mostColumns);
  const count = columns.length === 1 ? '1 column' : `${columns.length} columns`;
  return `${count}, and a first line that does not look like a header`;
}

/** A word on a line of its own may be anything, but for these. */
const loneColumns = ['prompt', 'caption', 'text', 'image', 'file_name', 'path'];

const columnName = /^[\p{L}_][\p{L}\p{N}_ .-]{0,39}$/u;

/** "a number", "a list", …. */
export function kindOf(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
