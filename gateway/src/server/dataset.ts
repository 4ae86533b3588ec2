/** Reads a Hugging Face image folder: every row is checked before a run begins, and what is left out is named. */
import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { extname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { SpindleError } from '@spindle/kit';
import { parseCsv } from './csv.js';

export interface DataRow {
  /** Absolute. */
  file: string;
  text: string;
}

export interface DataSet {
  rows: DataRow[];
  /** One sentence per kind of problem that is no error: images without a row, empty captions, long captions. */
  warnings: string[];
}

const metadataNames = ['metadata.jsonl', 'metadata.csv'];
const imageSuffixes = new Set(['.png', '.jpg', '.jpeg', '.webp', '.gif', '.tif', '.tiff', '.bmp', '.avif']);
/** How many names a message lists. */
const shown = 5;

export async function readDataSet(folder: string, options: { limit?: number | undefined; textTokens: number }): Promise<DataSet> {
  const root = await realpath(folder).catch(() => {
    throw new SpindleError('INVALID_ARGUMENT', `data.path: expected a folder, got "${folder}", which does not exist.`);
  });
  if (!(await stat(root)).isDirectory())
    throw new SpindleError('INVALID_ARGUMENT', `data.path: expected a folder, got the file "${folder}".`);
  const names = await listFiles(root);
  const metadata = metadataNames.find((name) => names.has(name));
  if (metadata === undefined) {
    throw new SpindleError('INVALID_ARGUMENT', `data.path: expected metadata.jsonl or metadata.csv in ${folder}, got neither.`);
  }
  const file = join(folder, metadata);
  const entries = metadata.endsWith('.csv')
    ? parseCsvRows(await readFile(file, 'utf8'), file)
    : parseJsonLines(await readFile(file, 'utf8'), file);
  if (entries.length === 0) throw new SpindleError('INVALID_ARGUMENT', `${file}: expected at least one row, got an empty data set.`);

  const listed = new Set<string>();
  const missing: string[] = [];
  const rows: DataRow[] = [];
  for (const { name, text, line } of entries) {
    const path = await inside(root, name, `${file}:${line}`);
    listed.add(relative(root, path).split(sep).join('/'));
    if (!names.has(relative(root, path).split(sep).join('/')) && !(await isFile(path))) missing.push(`${name} (line ${line})`);
    else rows.push({ file: path, text });
  }
  if (missing.length > 0) {
    throw new SpindleError('INVALID_ARGUMENT', `${file}: expected a file for every row, got none for ${some(missing)}.`);
  }
  const used = rows.slice(0, options.limit ?? rows.length);
  return {
    rows: used,
    warnings: warningsOf(
      used,
      [...names].filter((name) => imageSuffixes.has(extname(name).toLowerCase()) && !listed.has(name)),
      options,
    ),
  };
}

function warningsOf(rows: DataRow[], unlisted: string[], options: { limit?: number | undefined; textTokens: number }): string[] {
  const warnings: string[] = [];
  if (unlisted.length > 0)
    warnings.push(`data: ${unlisted.length} images have no row in the metadata and are not used: ${some(unlisted.sort())}.`);
  const empty = rows.filter((row) => row.text.trim() === '').length;
  if (empty > 0) warnings.push(`data: ${empty} captions are empty.`);
  const long = longTexts(
    rows.map((row) => row.text),
    options.textTokens,
  );
  if (long > 0)
    warnings.push(`data: at least ${long} captions are longer than the text encoder's ${options.textTokens} tokens; they will be cut.`);
  if (options.limit !== undefined && options.limit > rows.length)
    warnings.push(`data.limit: ${options.limit} rows were asked for, the data set has ${rows.length}.`);
  return warnings;
}

/** At least so many will be cut: every word is at least one token; begin and end take two. The exact count is known once the text is encoded. */
export function longTexts(texts: string[], textTokens: number): number {
  const room = textTokens - 2;
  return room > 0 ? texts.filter((text) => text.trim().split(/\s+/).length > room).length : 0;
}

interface Entry {
  name: string;
  text: string;
  line: number;
}

function parseJsonLines(text: string, file: string): Entry[] {
  // Editors on Windows begin a file with a byte order mark.
  return text
    .replace(/^\uFEFF/, '')
    .split(/\r?\n/)
    .flatMap((source, i) => {
      if (source.trim() === '') return [];
      const line = i + 1;
      let value: unknown;
      try {
        value = JSON.parse(source);
      } catch {
        throw new SpindleError('INVALID_ARGUMENT', `${file}:${line}: expected one JSON object per line, got "${source.slice(0, 60)}".`);
      }
      return entryOf(value, line, file);
    });
}

function parseCsvRows(text: string, file: string): Entry[] {
  const [header, ...lines] = parseCsv(text, file);
  if (!header) return [];
  for (const column of ['file_name', 'text']) {
    if (!header.fields.includes(column))
      throw new SpindleError('INVALID_ARGUMENT', `${file}:1: expected the columns file_name and text, got ${header.fields.join(', ')}.`);
  }
  return lines.map(({ fields, line }) => {
    if (fields.length !== header.fields.length) {
      throw new SpindleError('INVALID_ARGUMENT', `${file}:${line}: expected ${header.fields.length} fields, got ${fields.length}.`);
    }
    return entryOf(Object.fromEntries(header.fields.map((name, i) => [name, fields[i]])), line, file);
  });
}

function entryOf(value: unknown, line: number, file: string): Entry {
  const field = (key: string): string => {
    const got: unknown = typeof value === 'object' && value !== null && key in value ? (value as Record<string, unknown>)[key] : undefined;
    if (typeof got !== 'string')
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}:${line}: ${key}: expected a string, got ${got === undefined ? 'nothing' : JSON.stringify(got)}.`,
      );
    return got;
  };
  const name = field('file_name');
  if (name === '') throw new SpindleError('INVALID_ARGUMENT', `${file}:${line}: file_name: expected a file name, got an empty string.`);
  return { name, text: field('text'), line };
}

/** Refuses names that leave the data folder, by "..", absolute path or symbolic link. */
async function inside(root: string, name: string, where: string): Promise<string> {
  const refused = new SpindleError('INVALID_ARGUMENT', `${where}: file_name: expected a path inside the data folder, got "${name}".`);
  if (isAbsolute(name) || name.includes('\0')) throw refused;
  const path = resolve(root, name);
  if (!path.startsWith(root + sep)) throw refused;
  const real = await realpath(path).catch(() => path);
  if (!real.startsWith(root + sep)) throw refused;
  return path;
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => null))?.isFile() ?? false;
}

async function listFiles(root: string): Promise<Set<string>> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  return new Set(
    entries.filter((entry) => entry.isFile()).map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/')),
  );
}

function some(names: string[]): string {
  const rest = names.length - shown;
  return `${names.slice(0, shown).join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`;
}
