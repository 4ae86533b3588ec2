import { readFileSync, statSync } from 'node:fs';
import { LineCounter, isMap, isNode, isScalar, parseDocument, type Document } from 'yaml';
import type { z } from 'zod';
import { ensureError, SpindleError } from './errors.js';
import { findIssues, type ConfigIssue } from './config-issues.js';

const maxFileBytes = 4 << 20;

/**
 * Validates and fills in defaults; every issue becomes one line "<where>: <path>: expected …, got
 * …".
 */
export function parseConfig<S extends z.ZodType>(
  schema: S,
  value: unknown,
  where: string,
): z.output<S> {
  return parse(schema, value, () => where);
}

/** Reads a YAML or JSON file; messages begin with file:line. */
export function parseYamlFile<S extends z.ZodType>(schema: S, file: string): z.output<S> {
  const lines = new LineCounter();
  const document = parseDocument(readText(file), { lineCounter: lines, prettyErrors: false });
  const at = (offset: number): string => `${file}:${lines.linePos(offset).line}`;
  const [error] = document.errors;
  if (error)
    throw new SpindleError('INVALID_ARGUMENT', `${at(error.pos[0])}: ${error.message}`, {
      cause: error,
    });
  let value: unknown;
  try {
    value = document.toJS();
  } catch (cause) {
    // The parser refuses documents whose aliases expand without bound.
    throw new SpindleError('INVALID_ARGUMENT', `${file}: ${ensureError(cause).message}`, { cause });
  }
  return parse(schema, value, (issue) => at(offsetOf(document, issue)));
}

function parse<S extends z.ZodType>(
  schema: S,
  value: unknown,
  where: (issue: ConfigIssue) => string,
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const lines = findIssues(schema, value, result.error.issues).map((issue) => {
    const path = formatPath(issue.path);
    return `${where(issue)}: ${path === '' ? '' : `${path}: `}${issue.message}`;
  });
  // One mistake can break two rules that say the same (an integer that is too large).
  throw new SpindleError('INVALID_ARGUMENT', [...new Set(lines)].join('\n'), {
    cause: result.error,
  });
}

function readText(file: string): string {
  try {
    const { size } = statSync(file);
    if (size > maxFileBytes) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}: expected a file of at most ${maxFileBytes} bytes, got ${size}`,
      );
    }
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof SpindleError) throw error;
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${file}: cannot be read: ${ensureError(error).message}`,
      { cause: error },
    );
  }
}

function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}

/** Where in the file the issue is: its key, or the nearest thing around what is missing. */
function offsetOf(document: Document, issue: ConfigIssue): number {
  for (let depth = issue.path.length; depth > 0; depth--) {
    const parent = document.getIn(issue.path.slice(0, depth - 1), true);
    const last = issue.path[depth - 1];
    if (isMap(parent)) {
      const pair = parent.items.find(
        ({ key }) => isScalar(key) && String(key.value) === String(last),
      );
      if (pair && isNode(pair.key) && pair.key.range) return pair.key.range[0];
    }
    const node = document.getIn(issue.path.slice(0, depth), true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return document.contents?.range?.[0] ?? 0;
}
