/**
 * Hugging Face's image folder: images, and metadata.jsonl or metadata.csv with file_name and text;
 * rejected_file_name makes a pair.
 */
import { realpath } from 'node:fs/promises';
import { extname, isAbsolute, resolve, sep } from 'node:path';
import { SpindleError } from '@spindle/kit';
import { askedColumn, captionOf, usualColumn } from './columns.js';
import { readCsvRows } from './csv.js';
import { below, isRemote, nameBelow, type Files } from './files.js';
import { Skipped, some, type DataRow, type DataSource } from './rows.js';
import { kindOf, shownColumns } from './shown.js';
import { readLines } from './text.js';

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

/** Hugging Face's name first, then what other tools write. */
const imageKeys = ['file_name', 'image', 'file', 'path'];
const captionKeys = ['text', 'caption', 'prompt'];
const rejectedKeys = ['rejected_file_name'];

/** As systems have it, or less. */
const longestPath = 1024;

export function isImageName(name: string): boolean {
  return imageSuffixes.has(extname(name).toLowerCase());
}

/** Keys of the metadata; without one, the first usual name. */
export interface MetadataColumns {
  image?: string | undefined;
  rejected?: string | undefined;
  caption?: string | undefined;
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
    readonly columns: MetadataColumns = {},
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
      ? csvEntries(this.store, file, this.columns)
      : jsonEntries(this.store, file, this.columns)) {
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
        `data: ${unlisted.length} images have no row in the metadata and are not used: ` +
          `${some(unlisted)}.`,
      );
  }
}

async function* jsonEntries(
  files: Files,
  file: string,
  columns: MetadataColumns,
): AsyncIterable<Entry> {
  for await (const { text, line } of readLines(files, file)) {
    if (text.trim() === '') continue;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}:${line}: expected one JSON object per line, got text that does not parse.`,
      );
    }
    yield entryOf(value, columns, `${file}:${line}`, line);
  }
}

async function* csvEntries(
  files: Files,
  file: string,
  asked: MetadataColumns,
): AsyncIterable<Entry> {
  const checkHeader = (columns: readonly string[]): void => {
    for (const [name, usual] of [
      [asked.image, imageKeys],
      [asked.caption, captionKeys],
    ] as const) {
      if (keyOf(name, usual, columns) === undefined) {
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `${file}:1: expected the columns ${asked.image ?? 'file_name'} and ` +
            `${asked.caption ?? 'text'}, got ${shownColumns(columns)}.`,
        );
      }
    }
  };
  for await (const { row, line } of readCsvRows(files, file, checkHeader))
    yield entryOf(row, asked, `${file}:${line}`, line);
}

function keyOf(
  asked: string | undefined,
  usual: readonly string[],
  keys: readonly string[],
): string | undefined {
  return asked === undefined ? usualColumn(usual, keys) : askedColumn(asked, keys);
}

function entryOf(value: unknown, columns: MetadataColumns, where: string, line: number): Entry {
  const fields = new Map(
    typeof value === 'object' && value !== null
      ? Object.entries(value as Record<string, unknown>)
      : [],
  );
  const keys = [...fields.keys()];
  const field = (asked: string | undefined, usual: readonly string[]): string => {
    const key = keyOf(asked, usual, keys);
    const got = key === undefined ? undefined : fields.get(key);
    const text = key === undefined ? null : captionOf(got, where);
    if (text !== null) return text;
    const there = keys.length === 0 ? 'nothing' : `only ${some(keys)}`;
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: ${key ?? asked ?? usual[0]}: expected a string, got ` +
        `${got === undefined ? there : kindOf(got)}.`,
    );
  };
  const name = field(columns.image, imageKeys);
  if (name === '') {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: file_name: expected a file name, got an empty string.`,
    );
  }
  // In a CSV, a row without a rejected image has an empty field.
  const rejected = keyOf(columns.rejected, rejectedKeys, keys);
  const hasRejected =
    rejected !== undefined && ![undefined, null, ''].includes(fields.get(rejected) as string);
  return {
    name,
    text: field(columns.caption, captionKeys),
    rejected: hasRejected ? field(columns.rejected, rejectedKeys) : undefined,
    line,
  };
}

/**
 * Refuses names that leave the data folder, by "..", absolute path or symbolic link. A snapshot in
 * Hugging Face's cache is links to the blobs beside it: those may be followed.
 */
export async function inside(
  root: string,
  name: string,
  where: string,
  field = 'file_name',
): Promise<string> {
  const refused = (what: string): SpindleError =>
    new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: ${field}: expected a path inside the data folder, got ${what}.`,
    );
  if (name.length > longestPath)
    throw refused(`one of ${name.length} characters (at most ${longestPath} are taken)`);
  if (isAbsolute(name) || name.includes('\0')) throw refused(JSON.stringify(name));
  if (isRemote(root)) {
    if (name.split('/').includes('..')) throw refused(JSON.stringify(name));
    return below(root, name.replace(/^(\.\/)+/, ''));
  }
  const path = resolve(root, name);
  if (!path.startsWith(root + sep)) throw refused(JSON.stringify(name));
  const real = await realpath(path).catch(() => path);
  const allowed = [root, ...hubBlobs(root)];
  if (!allowed.some((folder) => real.startsWith(folder + sep))) {
    throw refused(`${JSON.stringify(name)}, a link that leads out of it to ${real}`);
  }
  return path;
}

/** …/models--NAME/snapshots/REVISION keeps its bytes in …/models--NAME/blobs; so do data sets. */
export function hubBlobs(root: string): string[] {
  const parts = root.split(sep);
  const at = parts.lastIndexOf('snapshots');
  return at > 0 && at < parts.length - 1 ? [[...parts.slice(0, at), 'blobs'].join(sep)] : [];
}
