/**
 * What every data set is, whatever form it was published in: ordered rows whose images are named,
 * not held.
 */

/** Where the bytes of one image lie. `file` is an absolute path or an s3:// URL. */
export type ImageRef =
  | { kind: 'file'; file: string }
  /** A member of an uncompressed tar file: `bytes` bytes from `offset`. */
  | { kind: 'member'; file: string; offset: number; bytes: number; member: string }
  /**
   * A cell of a parquet file; `row` counts from 0 through the whole file. A cell may hold a path
   * instead of bytes, relative to `images`, or to the file's own folder.
   */
  | { kind: 'cell'; file: string; row: number; column: string; images?: string };

/** One training example: a caption and where its image lies. */
export interface DataRow {
  /** Names the row within its data set: a file name, a tar key, "file:row". */
  key: string;
  caption: string;
  image: ImageRef;
  /** The image that was not preferred, where the data set has one. */
  rejected?: ImageRef;
  /** Where the row stands, for messages: "metadata.jsonl:3". */
  position: string;
}

/** Why rows of a data set are not used; reading fills it in. */
export class Skipped {
  readonly reasons = new Map<string, { count: number; first: string[] }>();

  add(reason: string, position: string): void {
    const entry = this.reasons.get(reason) ?? { count: 0, first: [] };
    entry.count += 1;
    if (entry.first.length < shown) entry.first.push(position);
    this.reasons.set(reason, entry);
  }

  get count(): number {
    return [...this.reasons.values()].reduce((sum, { count }) => sum + count, 0);
  }
}

/** The forms that data sets are published in. */
export const dataFormats = [
  'folder',
  'captions',
  'webdataset',
  'pickapic',
  'parquet',
  'csv',
  'prompts',
] as const;
/** One of them. */
export type DataFormat = (typeof dataFormats)[number];

/** A data set of one form; every reader in this package is one. */
export interface DataSource {
  readonly format: DataFormat;
  /** The files that rows come from, in order. */
  readonly files: readonly string[];
  /** Complete once rows() has been read to its end. */
  readonly skipped: Skipped;
  /**
   * One sentence per peculiarity that is no error; complete once rows() has been read to its end.
   */
  readonly warnings: readonly string[];
  /**
   * In the data set's order, the same every time. Throws INVALID_ARGUMENT for what cannot be read
   * as this format.
   */
  rows(): AsyncIterable<DataRow>;
}

/** How many names a message lists. */
const shown = 5;

/** Of a name that may be anything. */
const longestName = 100;

export function some(names: readonly string[], most = shown): string {
  const rest = names.length - most;
  const told = names.slice(0, most).map(shortened);
  return `${told.join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`;
}

/** A name that may be anything, for messages. */
export function shortened(name: string): string {
  return name.length > longestName ? `${name.slice(0, longestName)}…` : name;
}

/** An image's place in words, for messages: file, tar member or table cell. */
export function describeRef(ref: ImageRef): string {
  switch (ref.kind) {
    case 'file':
      return ref.file;
    case 'member':
      return `${ref.file}: ${shortened(ref.member)}`;
    case 'cell':
      return `${ref.file}: row ${ref.row}: ${ref.column}`;
  }
}
