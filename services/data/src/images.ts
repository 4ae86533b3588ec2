/** The bytes of an image, from wherever a row says they lie. */
import { realpath } from 'node:fs/promises';
import { delay, ensureError, SpindleError } from '@spindle/kit';
import { folderOf, isRemote, type Files } from './files.js';
import { inside } from './folder.js';
import { ParquetFile, type ParquetRow } from './parquet.js';
import { describeRef, type ImageRef } from './rows.js';

const mostBytes = 512 * 1024 * 1024;
/** Both columns of two row groups: neighbouring rows that are read together lie in them. */
const columnsKept = 4;
const filesKept = 8;
const waitsMs = [200, 1000];

/**
 * Reads images by reference; keeps a few table columns in memory and waits out a store's hiccups.
 */
export class ImageReader {
  readonly #columns = new Map<string, Promise<ParquetRow[]>>();
  readonly #files = new Map<string, Promise<ParquetFile>>();

  constructor(
    readonly store: Files,
    readonly waits: readonly number[] = waitsMs,
  ) {}

  /**
   * INVALID_ARGUMENT when the data set is at fault (no such file, a range beyond its end, an empty
   * cell): the row is to be counted as a bad one. Failures that may pass are tried again, then
   * thrown with a retryable code; they say nothing about the row.
   */
  async read(ref: ImageRef, signal: AbortSignal): Promise<Buffer> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#readOnce(ref);
      } catch (thrown) {
        const error = ensureError(thrown);
        const wait = this.waits[attempt];
        if (!error.retryable || error.code === 'RESOURCE_EXHAUSTED' || wait === undefined)
          throw error;
        await delay(wait, signal);
      }
    }
  }

  async #readOnce(ref: ImageRef): Promise<Buffer> {
    switch (ref.kind) {
      case 'file': {
        // One request instead of two; the answer is as long as the object.
        if (isRemote(ref.file)) {
          const bytes = await this.store.read(ref.file, 0, mostBytes + 1);
          checkSize(ref, bytes.length);
          return bytes;
        }
        const info = await this.store.find(ref.file);
        if (info?.kind !== 'file')
          throw invalid(
            ref,
            `expected an image file, got ${info === null ? 'no such file' : 'a folder'}`,
          );
        checkSize(ref, info.bytes);
        return this.store.read(ref.file, 0, info.bytes);
      }
      case 'member': {
        checkSize(ref, ref.bytes);
        const bytes = await this.store.read(ref.file, ref.offset, ref.bytes);
        if (bytes.length < ref.bytes)
          throw invalid(
            ref,
            `expected ${ref.bytes} bytes, got ${bytes.length}; the file has changed`,
          );
        return bytes;
      }
      case 'cell':
        return this.#readCell(ref);
    }
  }

  async #readCell(ref: ImageRef & { kind: 'cell' }): Promise<Buffer> {
    const file = await remember(this.#files, ref.file, filesKept, () =>
      ParquetFile.open(this.store, ref.file),
    );
    if (ref.row >= file.rows)
      throw invalid(ref, `expected one of ${file.rows} rows; the file has changed`);
    const group = file.groupOf(ref.row);
    const rows = await remember(
      this.#columns,
      `${group} ${ref.column} ${ref.file}`,
      columnsKept,
      () => file.readGroup(group, [ref.column]),
    );
    const cell = rows[ref.row - (file.groups[group] ?? 0)]?.[ref.column];
    const { bytes, path } = partsOf(cell);
    if (!(bytes instanceof Uint8Array)) {
      // Hugging Face's Image without its bytes: the file lies beside the table.
      if (typeof path === 'string' && path !== '') return this.#readBeside(ref, path);
      throw invalid(
        ref,
        `expected an image's bytes, got ` +
          (bytes === null || bytes === undefined ? 'nothing' : typeof bytes),
      );
    }
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  async #readBeside(ref: ImageRef & { kind: 'cell' }, name: string): Promise<Buffer> {
    const folder = ref.images ?? folderOf(ref.file);
    const root = isRemote(folder) ? folder : await realpath(folder);
    const file = await inside(root, name, describeRef(ref), 'path');
    return this.#readOnce({ kind: 'file', file });
  }
}

/** A cell's bytes, and the path that Hugging Face's Image feature keeps with them. */
function partsOf(cell: unknown): { bytes?: unknown; path?: unknown } {
  return typeof cell === 'object' && cell !== null && 'bytes' in cell ? cell : { bytes: cell };
}

/** The newest `kept` values; one that failed is not kept. */
function remember<T>(
  cache: Map<string, Promise<T>>,
  key: string,
  kept: number,
  make: () => Promise<T>,
): Promise<T> {
  const known = cache.get(key);
  cache.delete(key);
  const value = known ?? make();
  cache.set(key, value);
  value.catch(() => cache.delete(key));
  for (const oldest of cache.keys()) {
    if (cache.size <= kept) break;
    cache.delete(oldest);
  }
  return value;
}

function checkSize(ref: ImageRef, bytes: number): void {
  if (bytes > mostBytes)
    throw invalid(ref, `expected an image of at most ${mostBytes} bytes, got ${bytes}`);
}

function invalid(ref: ImageRef, what: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${describeRef(ref)}: ${what}`);
}
