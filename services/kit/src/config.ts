import { readFileSync, statSync } from 'node:fs';
import { LineCounter, isMap, isNode, isScalar, type Document } from 'yaml';
import type { z } from 'zod';
import { ensureError, SpindleError } from './errors.js';
import { findIssues, type ConfigIssue } from './config-issues.js';
import { readYaml } from './yaml-text.js';

/** Bytes of a config, as a file or as JSON; far more than any run's. */
export const maxConfigBytes = 1 << 20;
/** Of a key, in messages. */
const longestName = 80;

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

/** JSON text of at most `maxConfigBytes`; `where` names it in messages. */
export function parseConfigJson(text: string, where: string): unknown {
  const bytes = Buffer.byteLength(text);
  if (bytes > maxConfigBytes)
    throw invalid(`${where}: expected at most ${maxConfigBytes} bytes, got ${bytes}`);
  try {
    return JSON.parse(text);
  } catch (cause) {
    const got = text === '' ? 'nothing' : 'text that does not parse';
    throw invalid(`${where}: expected a run config in JSON, got ${got}.`, cause);
  }
}

/** Reads a YAML or JSON file; messages begin with file:line. */
export function parseYamlFile<S extends z.ZodType>(schema: S, file: string): z.output<S> {
  const lines = new LineCounter();
  const { document, fault } = readYaml(readText(file), lines);
  const at = (offset: number): string => `${file}:${lines.linePos(offset).line}`;
  if (fault) throw invalid(`${at(fault.offset)}: ${fault.message}`, fault.cause);
  let value: unknown;
  try {
    value = document.toJS();
  } catch (cause) {
    // The parser refuses documents whose aliases expand without bound.
    throw invalid(`${file}: ${ensureError(cause).message}`, cause);
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
  const { told, more } = findIssues(schema, value, result.error.issues);
  const lines = told.map((issue) => {
    const path = formatPath(issue.path);
    return `${where(issue)}: ${path === '' ? '' : `${path}: `}${issue.message}`;
  });
  if (more > 0) lines.push(`and ${more} more`);
  // One mistake can break two rules that say the same (an integer that is too large).
  throw new SpindleError('INVALID_ARGUMENT', [...new Set(lines)].join('\n'), {
    cause: result.error,
  });
}

function readText(file: string): string {
  try {
    const { size } = statSync(file);
    if (size > maxConfigBytes)
      throw invalid(`${file}: expected a file of at most ${maxConfigBytes} bytes, got ${size}`);
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof SpindleError) throw error;
    throw invalid(`${file}: cannot be read: ${ensureError(error).message}`, error);
  }
}

function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    const name = String(key);
    const shown = name.length > longestName ? `${name.slice(0, longestName)}…` : name;
    return text === '' ? shown : `${text}.${shown}`;
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

function invalid(message: string, cause?: unknown): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', message, { cause });
}
