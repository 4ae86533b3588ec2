/** Parts of a safetensors file, read where they lie: its header, and ranges of bytes. */
import type { FileHandle } from 'node:fs/promises';
import { SpindleError, type ErrorCode } from './errors.js';

/** A tensor as the header has it; offsets count from the end of the header. */
export interface TensorField {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

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

/**
 * `label` begins the message of the error, whose code is `code`, about a header that is longer than
 * the file.
 */
export async function readFields(
  file: FileHandle,
  label: string,
  code: ErrorCode,
): Promise<{ fields: ReadonlyMap<string, TensorField>; dataStart: number }> {
  const length = Number((await bytesAt(file, label, 0, 8)).readBigUInt64LE(0));
  const { size } = await file.stat();
  if (8 + length > size)
    throw new SpindleError(
      code,
      `${label}: expected a header within ${size} bytes, got one of ${length}`,
    );
  const text = await bytesAt(file, label, 8, 8 + length);
  return {
    fields: new Map(
      Object.entries(JSON.parse(text.toString('utf8')) as Record<string, TensorField>),
    ),
    dataStart: 8 + length,
  };
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
