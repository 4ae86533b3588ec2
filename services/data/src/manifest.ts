/** The rows of a run as JSON lines, in a file whose lines are found by number. */
import { open, type FileHandle } from 'node:fs/promises';
import { SpindleError } from '@spindle/kit';
import type { DataRow, ImageRef } from './rows.js';

/** A row as jobs see it; `index` is its number in the manifest. */
export interface ManifestRow {
  index: number;
  text: string;
  image: ImageRef;
  rejected?: ImageRef;
  /** Where it stands in the data set. */
  position: string;
}

/**
 * One line, with its end: {"file", "text", ...}. A file of its own needs no more than these two.
 */
export function manifestLine(row: DataRow): string {
  const { kind, ...place } = row.image;
  return `${JSON.stringify({
    ...place,
    ...(kind !== 'file' && { kind }),
    text: row.caption,
    at: row.position,
    ...(row.rejected && { rejected: row.rejected }),
  })}\n`;
}

export function parseManifestLine(line: string, index: number): ManifestRow {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `manifest row ${index}: expected JSON, got text that does not parse`,
    );
  }
  const row = value as Record<string, unknown> | null;
  const image = row && refOf({ kind: 'file', ...row });
  const other = row?.['rejected'];
  const rejected = other === undefined ? undefined : refOf({ ...other });
  if (!image || rejected === null || typeof row['text'] !== 'string') {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `manifest row ${index}: expected {"file": string, "text": string} with the place of an ` +
        'image, got something else',
    );
  }
  const position = typeof row['at'] === 'string' ? row['at'] : `row ${index}`;
  return { index, text: row['text'], image, ...(rejected && { rejected }), position };
}

function refOf(value: Record<string, unknown>): ImageRef | null {
  const { kind, file, offset, bytes, member, row, column, images } = value;
  if (typeof file !== 'string') return null;
  if (kind === 'file') return { kind, file };
  if (
    kind === 'member' &&
    typeof offset === 'number' &&
    typeof bytes === 'number' &&
    typeof member === 'string'
  )
    return { kind, file, offset, bytes, member };
  if (kind === 'cell' && typeof row === 'number' && typeof column === 'string')
    return { kind, file, row, column, ...(typeof images === 'string' && { images }) };
  return null;
}

const chunk = 1 << 20;
/** Bytes between two rows that are cheaper to read over than to skip. */
const gap = 1 << 16;

/** Reads rows by number; keeps nothing but where every line begins. */
export class Manifest {
  private constructor(
    readonly file: string,
    /** Where every line begins, and the end of the last one. */
    readonly starts: readonly number[],
  ) {}

  static async open(file: string): Promise<Manifest> {
    const handle = await open(file, 'r');
    try {
      return new Manifest(file, await lineStarts(handle));
    } finally {
      await handle.close();
    }
  }

  get count(): number {
    return this.starts.length - 1;
  }

  /** These rows, in any order; those that lie near each other are read together. */
  async rowsAt(indices: readonly number[]): Promise<ManifestRow[]> {
    const sorted = [...new Set(indices)].sort((a, b) => a - b);
    const read: ManifestRow[] = [];
    for (let from = 0; from < sorted.length; ) {
      let to = from + 1;
      while (to < sorted.length && this.#isNear(sorted[to - 1], sorted[to])) to++;
      const first = sorted[from] ?? 0;
      const last = sorted[to - 1] ?? first;
      const wanted = new Set(sorted.slice(from, to));
      const rows = await this.rows(first, last + 1 - first, wanted);
      read.push(...rows);
      from = to;
    }
    return read;
  }

  #isNear(row = 0, next = 0): boolean {
    return (this.starts[next] ?? 0) - (this.starts[row + 1] ?? 0) <= gap;
  }

  /** Rows [start, start + count), or those of them that are `wanted`. */
  async rows(start: number, count: number, wanted?: ReadonlySet<number>): Promise<ManifestRow[]> {
    if (start + count > this.count)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `manifest: expected at least ${start + count} rows, got ${this.count}`,
      );
    const from = this.starts[start] ?? 0;
    const bytes = Buffer.alloc((this.starts[start + count] ?? from) - from);
    const handle = await open(this.file, 'r');
    try {
      for (let done = 0; done < bytes.length; ) {
        const { bytesRead } = await handle.read(bytes, done, bytes.length - done, from + done);
        if (bytesRead === 0)
          throw new SpindleError(
            'DATA_LOSS',
            `${this.file}: expected ${bytes.length} bytes at ${from}, got ${done}`,
          );
        done += bytesRead;
      }
    } finally {
      await handle.close();
    }
    const rows: ManifestRow[] = [];
    for (let row = start; row < start + count; row++) {
      if (wanted && !wanted.has(row)) continue;
      const [begin = 0, end = 0] = [this.starts[row], this.starts[row + 1]];
      rows.push(parseManifestLine(bytes.toString('utf8', begin - from, end - from), row));
    }
    return rows;
  }
}

async function lineStarts(handle: FileHandle): Promise<number[]> {
  const starts = [0];
  const buffer = Buffer.alloc(chunk);
  let at = 0;
  for (;;) {
    const { bytesRead } = await handle.read(buffer, 0, chunk, at);
    if (bytesRead === 0) break;
    for (let i = buffer.indexOf(10); i !== -1 && i < bytesRead; i = buffer.indexOf(10, i + 1))
      starts.push(at + i + 1);
    at += bytesRead;
  }
  if (starts.at(-1) !== at) starts.push(at);
  return starts;
}
