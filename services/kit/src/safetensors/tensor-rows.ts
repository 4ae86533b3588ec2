/** Parts of a safetensors file, read where they lie: its header, and ranges of bytes. */
import type { FileHandle } from 'node:fs/promises';
import { ensureError, SpindleError, type ErrorCode } from '../errors.js';
import { headerLength, parseHeader, prefixBytes, type TensorHeader } from './header.js';

/** Rows of several shapes, one after the other. */
export interface RowLayout {
  shapes: readonly (readonly number[])[];
  /** First element of every row, and the end of the last one. */
  starts: readonly number[];
}

/** Where each row begins when rows of these shapes lie one after the other. */
export function layoutOf(shapes: readonly (readonly number[])[]): RowLayout {
  const starts = [0];
  for (const shape of shapes) starts.push((starts.at(-1) ?? 0) + elementsOf(shape));
  return { shapes, starts };
}

/** Number of elements of a shape; 1 for a scalar. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** The header of a file; `code` is that of the error about one that is none. */
export async function readFields(
  file: FileHandle,
  label: string,
  code: ErrorCode,
): Promise<TensorHeader> {
  const { size } = await file.stat();
  try {
    const prefix = await bytesAt(file, label, 0, Math.min(prefixBytes, size));
    const length = headerLength(prefix, size, label);
    const json = await bytesAt(file, label, prefixBytes, prefixBytes + length);
    return parseHeader(json, size, label);
  } catch (thrown) {
    const error = ensureError(thrown);
    throw error.code === 'INVALID_ARGUMENT'
      ? new SpindleError(code, error.message, { cause: thrown })
      : error;
  }
}

/** In memory of their own, aligned for any type; DATA_LOSS where the file ends before. */
export async function bytesAt(
  file: FileHandle,
  label: string,
  from: number,
  to: number,
): Promise<Buffer> {
  const bytes = Buffer.from(new ArrayBuffer(to - from));
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, from + done);
    if (bytesRead === 0)
      throw new SpindleError('DATA_LOSS', `${label}: expected ${bytes.length} bytes, got ${done}`);
    done += bytesRead;
  }
  return bytes;
}
