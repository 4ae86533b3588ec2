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
  } catch (cause) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `manifest row ${index}: expected JSON, got ${line.slice(0, 60)}`,
      { cause },
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
        `image, got ${line.slice(0, 60)}`,
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

  /** Rows [start, start + count). */
  async rows(start: number, count: number): Promise<ManifestRow[]> {
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
    return Array.from({ length: count }, (_, i) => {
      const [begin = 0, end = 0] = [this.starts[start + i], this.starts[start + i + 1]];
      return parseManifestLine(bytes.toString('utf8', begin - from, end - from), start + i);
    });
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
