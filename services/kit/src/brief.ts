/** Values of somebody's data in messages: always short, and made in a time that is short as well. */

const deepest = 4;
const mostParts = 8;

/**
 * A value as JSON of at most `length` characters, cut with "…". Unlike JSON.stringify it takes no
 * longer for a large value, and does not fail for a deep one.
 */
export function brief(value: unknown, length = 60): string {
  const text = write(value, deepest, length);
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

function write(value: unknown, depth: number, length: number): string {
  switch (typeof value) {
    case 'undefined':
      return 'nothing';
    case 'string':
      return JSON.stringify(value.slice(0, length));
    case 'object':
      break;
    default:
      return String(value);
  }
  if (value === null) return 'null';
  const isList = Array.isArray(value);
  const [open, close] = isList ? '[]' : '{}';
  if (depth === 0) return `${open}…${close}`;
  const parts: string[] = [];
  for (const key of firstKeys(value)) {
    const part = write((value as Record<string, unknown>)[key], depth - 1, length);
    parts.push(isList ? part : `${JSON.stringify(key.slice(0, length))}:${part}`);
  }
  const more = parts.length > mostParts;
  return `${open}${parts.slice(0, mostParts).join(',')}${more ? ',…' : ''}${close}`;
}

/** One more than are shown. */
function firstKeys(value: object): string[] {
  const keys: string[] = [];
  for (const key in value) {
    if (!Object.hasOwn(value, key)) continue;
    keys.push(key);
    if (keys.length > mostParts) break;
  }
  return keys;
}
