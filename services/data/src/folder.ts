/**
 * Hugging Face's image folder: images, and metadata.jsonl or metadata.csv with file_name and text;
 * rejected_file_name makes a pair.
 */
import { realpath } from 'node:fs/promises';
import { extname, isAbsolute, resolve, sep } from 'node:path';
import { SpindleError } from '@spindle/kit';
import { readCsvRows } from './csv.js';
import { below, isRemote, nameBelow, readLines, type Files } from './files.js';
import { Skipped, some, type DataRow, type DataSource } from './rows.js';

export const metadataNames = ['metadata.jsonl', 'metadata.csv'];
const imageSuffixes = new Set([
  '.png',
  '.jpg',
  '.jpeg',
  '.webp',
  '.gif',
  '.tif',
  '.tiff',
  '.bmp',
  '.avif',
]);

export function isImageName(name: string): boolean {
  return imageSuffixes.has(extname(name).toLowerCase());
}

interface Entry {
  name: string;
  text: string;
  rejected: string | undefined;
  line: number;
}

export class ImageFolder implements DataSource {
  readonly format = 'folder';
  readonly skipped = new Skipped();
  readonly warnings: string[] = [];

  /** `folder` as the person wrote it, for messages; `metadata` is one of metadataNames. */
  constructor(
    readonly store: Files,
    readonly folder: string,
    readonly metadata: string,
  ) {}

  get files(): readonly string[] {
    return [below(this.folder, this.metadata)];
  }

  async *rows(): AsyncIterable<DataRow> {
    const root = isRemote(this.folder) ? this.folder : await realpath(this.folder);
    const names = new Set((await this.store.list(root)).map(({ path }) => nameBelow(root, path)));
    const file = below(this.folder, this.metadata);
    const missing: string[] = [];
    const listed = new Set<string>();
    let count = 0;
    /** Undefined, and noted, where there is no such file. */
    const locate = async (
      name: string,
      line: number,
      field: string,
    ): Promise<{ own: string; path: string } | undefined> => {
      const path = await inside(root, name, `${file}:${line}`, field);
      const own = nameBelow(root, path);
      listed.add(own);
      if (names.has(own)) return { own, path };
      missing.push(`${name} (line ${line})`);
      return undefined;
    };
    for await (const { name, text, rejected, line } of this.metadata.endsWith('.csv')
      ? csvEntries(this.store, file)
      : jsonEntries(this.store, file)) {
      count += 1;
      const image = await locate(name, line, 'file_name');
      const other =
        rejected === undefined ? undefined : await locate(rejected, line, 'rejected_file_name');
      if (image === undefined || (rejected !== undefined && other === undefined)) continue;
      yield {
        key: image.own,
        caption: text,
        image: { kind: 'file', file: image.path },
        ...(other && { rejected: { kind: 'file', file: other.path } }),
        position: `${this.metadata}:${line}`,
      };
    }
    if (count === 0)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}: expected at least one row, got an empty data set.`,
      );
    if (missing.length > 0)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}: expected a file for every row, got none for ${some(missing)}.`,
      );
    const unlisted = [...names].filter((name) => isImageName(name) && !listed.has(name)).sort();
    if (unlisted.length > 0)
      this.warnings.push(
        `data: ${unlisted.length} images have no row in the metadata and are not used: ${some(unlisted)}.`,
      );
  }
}

async function* jsonEntries(files: Files, file: string): AsyncIterable<Entry> {
  for await (const { text, line } of readLines(files, file)) {
    const source = text.replace(/^\uFEFF/, '');
    if (source.trim() === '') continue;
    let value: unknown;
    try {
      value = JSON.parse(source);
    } catch {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}:${line}: expected one JSON object per line, got "${source.slice(0, 60)}".`,
      );
    }
    yield entryOf(value, line, file);
  }
}

async function* csvEntries(files: Files, file: string): AsyncIterable<Entry> {
  const checkHeader = (columns: readonly string[]): void => {
    for (const column of ['file_name', 'text']) {
      if (!columns.includes(column))
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `${file}:1: expected the columns file_name and text, got ${columns.join(', ')}.`,
        );
    }
  };
  for await (const { row, line } of readCsvRows(files, file, checkHeader))
    yield entryOf(row, line, file);
}

function entryOf(value: unknown, line: number, file: string): Entry {
  const field = (key: string): string => {
    const got: unknown =
      typeof value === 'object' && value !== null && key in value
        ? (value as Record<string, unknown>)[key]
        : undefined;
    if (typeof got !== 'string')
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}:${line}: ${key}: expected a string, got ${got === undefined ? 'nothing' : JSON.stringify(got)}.`,
      );
    return got;
  };
  const name = field('file_name');
  if (name === '')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${file}:${line}: file_name: expected a file name, got an empty string.`,
    );
  // In a CSV, a row without a rejected image has an empty field.
  const rejected = (value as Record<string, unknown>)['rejected_file_name'] ?? '';
  return {
    name,
    text: field('text'),
    rejected: rejected === '' ? undefined : field('rejected_file_name'),
    line,
  };
}

/** Refuses names that leave the data folder, by "..", absolute path or symbolic link. */
export async function inside(
  root: string,
  name: string,
  where: string,
  field = 'file_name',
): Promise<string> {
  const refused = new SpindleError(
    'INVALID_ARGUMENT',
    `${where}: ${field}: expected a path inside the data folder, got "${name}".`,
  );
  if (isAbsolute(name) || name.includes('\0')) throw refused;
  if (isRemote(root)) {
    if (name.split('/').includes('..')) throw refused;
    return below(root, name.replace(/^(\.\/)+/, ''));
  }
  const path = resolve(root, name);
  if (!path.startsWith(root + sep)) throw refused;
  const real = await realpath(path).catch(() => path);
  if (!real.startsWith(root + sep)) throw refused;
  return path;
}
