import type { z } from 'zod';
import { brief } from './brief.js';

export interface ConfigIssue {
  path: PropertyKey[];
  /** "expected …, got …". */
  message: string;
}

type Issue = z.core.$ZodIssue;

/** Nobody reads on behind these. */
const mostIssues = 20;
/** A longer key is no mistyped one, and comparing takes its length times the other's. */
const longestCompared = 64;

/**
 * Zod's issues in the words of a config's author; unknown keys and values name the nearest valid
 * one. The first are told, the others counted.
 */
export function findIssues(
  schema: z.ZodType,
  value: unknown,
  issues: readonly Issue[],
): { told: ConfigIssue[]; more: number } {
  const told: ConfigIssue[] = [];
  let more = 0;
  for (const issue of issues) {
    const room = mostIssues - told.length;
    more += Math.max(0, countOf(issue) - room);
    if (room > 0) told.push(...explain(schema, value, issue).slice(0, room));
  }
  return { told, more };
}

function countOf(issue: Issue): number {
  return issue.code === 'unrecognized_keys' ? issue.keys.length : 1;
}

/** The valid key within a few typing errors of `key`, if there is one. */
export function nearest(key: string, valid: readonly string[]): string | undefined {
  if (key.length > longestCompared) return undefined;
  const scored = valid.map((candidate) => ({
    candidate,
    distance: levenshtein(key.toLowerCase(), candidate.toLowerCase()),
  }));
  const [best] = scored.sort((a, b) => a.distance - b.distance);
  return best &&
    best.distance <= Math.max(2, Math.floor(key.length / 2)) &&
    best.distance < best.candidate.length
    ? best.candidate
    : undefined;
}

function explain(root: z.ZodType, value: unknown, issue: Issue): ConfigIssue[] {
  const path = issue.path;
  const got = valueAt(value, path);
  const single = (expected: string): ConfigIssue[] => [
    { path, message: `expected ${expected}, got ${describe(got)}` },
  ];
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.slice(0, mostIssues).map((key) => ({
        path: [...path, key],
        message: unknownKey(key, validKeys(root, path)),
      }));
    case 'invalid_type':
      return single(typeNames[issue.expected] ?? issue.expected);
    case 'too_small':
      return single(
        bound(issue.origin, issue.inclusive === false ? 'more than' : 'at least', issue.minimum),
      );
    case 'too_big':
      return single(
        bound(issue.origin, issue.inclusive === false ? 'less than' : 'at most', issue.maximum),
      );
    case 'not_multiple_of':
      return single(`a multiple of ${issue.divisor}`);
    case 'invalid_value': {
      const options = issue.values.map((option) =>
        typeof option === 'string' ? JSON.stringify(option) : String(option),
      );
      const close =
        typeof got === 'string'
          ? nearest(
              got,
              issue.values.filter((option) => typeof option === 'string'),
            )
          : undefined;
      return single(options.length === 1 ? (options[0] ?? '') : `one of ${options.join(', ')}`).map(
        (found) => ({
          ...found,
          message:
            close === undefined ? found.message : `${found.message}; did you mean "${close}"?`,
        }),
      );
    }
    case 'invalid_format':
      return single(
        issue.pattern === undefined ? `a valid ${issue.format}` : `text matching ${issue.pattern}`,
      );
    case 'invalid_union':
      return explainUnion(root, value, issue.errors, path, got);
    default:
      return [{ path, message: issue.message }];
  }
}

/** Of a union's alternatives the one that came closest is what the author meant. */
function explainUnion(
  root: z.ZodType,
  value: unknown,
  alternatives: readonly (readonly Issue[])[],
  path: PropertyKey[],
  got: unknown,
): ConfigIssue[] {
  const absolute = alternatives.map((issues) =>
    issues.map((issue) => ({ ...issue, path: [...path, ...issue.path] })),
  );
  const deep = absolute.filter((issues) =>
    issues.every((issue) => issue.path.length > path.length || issue.code === 'unrecognized_keys'),
  );
  const [closest] = deep.sort((a, b) => a.length - b.length);
  if (closest && closest.length > 0) return closest.flatMap((issue) => explain(root, value, issue));
  const messages = absolute.flatMap((issues) =>
    issues.slice(0, 1).flatMap((issue) => explain(root, value, issue)),
  );
  const expected = messages
    .map(({ message }) => /^expected (.*), got /s.exec(message)?.[1])
    .filter((text) => text !== undefined);
  return expected.length > 0
    ? [{ path, message: `expected ${[...new Set(expected)].join(' or ')}, got ${describe(got)}` }]
    : messages.slice(0, 1);
}

const typeNames: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'a number',
  int: 'an integer',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
};

function bound(origin: string, relation: string, limit: number | bigint): string {
  switch (origin) {
    case 'string':
      return `${relation} ${limit} ${Number(limit) === 1 ? 'character' : 'characters'}`;
    case 'array':
    case 'set':
      return `${relation} ${limit} ${Number(limit) === 1 ? 'item' : 'items'}`;
    default:
      return `${relation} ${limit}`;
  }
}

function unknownKey(key: string, valid: readonly string[]): string {
  const close = nearest(key, valid);
  if (close !== undefined) return `unknown key; did you mean "${close}"?`;
  return valid.length > 0 ? `unknown key; expected one of ${valid.join(', ')}` : 'unknown key';
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value))
    return value.length === 0 ? 'an empty list' : `a list of ${value.length}`;
  if (typeof value === 'object') return 'an object';
  return brief(value, 80);
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((inner, key) => {
    return typeof inner === 'object' && inner !== null && Object.hasOwn(inner, key)
      ? (inner as Record<PropertyKey, unknown>)[key]
      : undefined;
  }, value);
}

/**
 * Keys that the objects of the schema allow at the path; unions give the keys of all their
 * alternatives.
 */
function validKeys(root: z.ZodType, path: readonly PropertyKey[]): string[] {
  let schemas = unwrap(root);
  for (const key of path) schemas = schemas.flatMap((schema) => step(schema, key)).flatMap(unwrap);
  return [
    ...new Set(
      schemas.flatMap((schema) =>
        schema.def.type === 'object' ? Object.keys((schema as z.ZodObject).shape) : [],
      ),
    ),
  ];
}

function step(schema: z.ZodType, key: PropertyKey): z.ZodType[] {
  const { def } = schema;
  switch (def.type) {
    case 'object': {
      const shape = (schema as z.ZodObject).shape as Record<PropertyKey, z.ZodType | undefined>;
      return shape[key] ? [shape[key]] : [];
    }
    case 'array':
      return [(def as unknown as { element: z.ZodType }).element];
    case 'record':
      return [(def as unknown as { valueType: z.ZodType }).valueType];
    default:
      return [];
  }
}

/** The schemas behind optional, default, pipes, unions. */
function unwrap(schema: z.ZodType): z.ZodType[] {
  const def = schema.def as unknown as {
    innerType?: z.ZodType;
    in?: z.ZodType;
    options?: z.ZodType[];
    left?: z.ZodType;
    right?: z.ZodType;
    getter?: () => z.ZodType;
  };
  if (def.innerType) return unwrap(def.innerType);
  if (def.in) return unwrap(def.in);
  if (def.options) return def.options.flatMap(unwrap);
  if (def.left && def.right) return [...unwrap(def.left), ...unwrap(def.right)];
  if (def.getter) return unwrap(def.getter());
  return [schema];
}

function levenshtein(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substitute, (previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}
