/** Parquet files: columns by name, a row group at a time, and single cells. */
import { parquetMetadataAsync, parquetSchema, type FileMetaData, type SchemaTree } from 'hyparquet';
import { SpindleError } from '@spindle/kit';
import type { Files } from './files.js';
import { decodeRowGroup } from './parquet-decoder.js';

export type ParquetRow = Record<string, unknown>;

export class ParquetFile {
  /** Row at which each row group begins, and one past the last row. */
  readonly groups: readonly number[];

  private constructor(
    readonly store: Files,
    readonly path: string,
    readonly bytes: number,
    readonly metadata: FileMetaData,
    readonly schema: SchemaTree,
  ) {
    const starts = [0];
    for (const group of metadata.row_groups)
      starts.push((starts.at(-1) ?? 0) + Number(group.num_rows));
    this.groups = starts;
  }

  static async open(store: Files, path: string): Promise<ParquetFile> {
    const bytes = (await store.find(path))?.bytes;
    if (bytes === undefined)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: expected a parquet file, got no such file.`,
      );
    const file = bufferOf(store, path, bytes);
    return unlessUnreadable(path, async () => {
      const metadata = await parquetMetadataAsync(file);
      const schema = parquetSchema(metadata);
      // The decoder's types promise a name, which a damaged footer does not keep.
      if (schema.children.some(({ element }) => typeof element.name !== 'string'))
        throw new Error('a column without a name');
      return new ParquetFile(store, path, bytes, metadata, schema);
    });
  }

  get rows(): number {
    return this.groups.at(-1) ?? 0;
  }

  get columns(): string[] {
    return this.schema.children.map((child) => child.element.name);
  }

  /**
   * What a column's cells are: bytes, text, a group {bytes, path} as Hugging Face's Image feature
   * writes, or something else.
   */
  kindOf(column: string): 'bytes' | 'text' | 'image' | 'other' {
    const child = this.schema.children.find(({ element }) => element.name === column);
    return child === undefined ? 'other' : kindOfNode(child);
  }

  /** Rows of row group `group`, with these columns only; binary cells are Uint8Array. */
  async readGroup(group: number, columns: string[]): Promise<ParquetRow[]> {
    const [rowStart = 0, rowEnd = 0] = [this.groups[group], this.groups[group + 1]];
    const rows = await unlessUnreadable(this.path, () =>
      decodeRowGroup(
        { metadata: this.metadata, bytes: this.bytes, columns, rowStart, rowEnd },
        bufferOf(this.store, this.path, this.bytes).slice,
      ),
    );
    if (rows.length !== rowEnd - rowStart)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${this.path}: expected ${rowEnd - rowStart} rows in row group ${group}, got ` +
          `${rows.length}.`,
      );
    return rows;
  }

  groupOf(row: number): number {
    let low = 0;
    let high = this.groups.length - 1;
    while (low + 1 < high) {
      const middle = (low + high) >> 1;
      if ((this.groups[middle] ?? 0) <= row) low = middle;
      else high = middle;
    }
    return low;
  }
}

function kindOfNode({ element, children }: SchemaTree): 'bytes' | 'text' | 'image' | 'other' {
  if (children.some((child) => child.element.name === 'bytes')) return 'image';
  if (children.length > 0 || element.type !== 'BYTE_ARRAY') return 'other';
  return element.converted_type === 'UTF8' || element.logical_type?.type === 'STRING'
    ? 'text'
    : 'bytes';
}

function bufferOf(store: Files, path: string, bytes: number) {
  return {
    byteLength: bytes,
    slice: (start: number, end = bytes): Promise<ArrayBuffer> => unawaited(readRange(start, end)),
  };

  async function readRange(start: number, end: number): Promise<ArrayBuffer> {
    const isRange = Number.isSafeInteger(start) && Number.isSafeInteger(end);
    if (!isRange || start < 0 || end < start || end > bytes) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: expected a range within its ${bytes} bytes, got ${start} to ${end}; the ` +
          'file is damaged.',
      );
    }
    const data = await store.read(path, start, end - start);
    if (data.length !== end - start) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: expected ${end - start} bytes at byte ${start}, got ${data.length}.`,
      );
    }
    return data.buffer;
  }
}

/**
 * The decoder may ask for ranges and columns that a damaged file states, and not wait for all of
 * them: a rejection that nobody awaits would end the process, be it of the promise itself or of
 * what the decoder makes of it.
 */
function unawaited<T>(promise: Promise<T>): Promise<T> {
  const then = promise.then.bind(promise);
  void then(undefined, () => undefined);
  promise.then = (...callbacks) => unawaited(then(...callbacks));
  return promise;
}

/** What the decoder says of bytes is the file's fault; what reading says has its own code. */
async function unlessUnreadable<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof SpindleError) throw error;
    const what = error instanceof Error ? error.message : String(error);
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected a parquet file, got one that does not decode (${what}).`,
      {
        cause: error,
      },
    );
  }
}
