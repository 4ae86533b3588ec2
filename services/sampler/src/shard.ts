/**
 * Rows of latents as tensors of a shard: of one shape, or, with aspect-ratio buckets, row after row
 * with every row's shape beside them.
 */
import { fromFloat32, fromInt64, type TensorEntry } from '@spindle/kit';
import type { TensorDto } from '@spindle/native';

/** One row. */
export interface Latents {
  data: Float32Array;
  /** (C, h, w) */
  shape: readonly number[];
}

/** The rows of (N, C, h, w); they share its memory. */
export function latentsOf({ data, shape: [count = 0, ...shape] }: TensorDto): Latents[] {
  const size = shape.reduce((product, n) => product * n, 1);
  return Array.from({ length: count }, (_, n) => ({
    data: data.subarray(n * size, (n + 1) * size),
    shape,
  }));
}

/**
 * Tensors by name: F32 (N, C, h, w) where all rows have `rowShape`; with null F32 of one dimension,
 * row after row, and I64 (N, 3) named
 * `shapeName` with their shapes. Columns are of the same shapes, row by row.
 */
export function latentTensors(
  columns: Readonly<Record<string, readonly Latents[]>>,
  rowShape: readonly number[] | null,
  shapeName: string,
): [string, TensorEntry][] {
  const tensors = Object.entries(columns).map(([name, rows]): [string, TensorEntry] => {
    const data = concatenated(rows.map((row) => row.data));
    return [
      name,
      fromFloat32(rowShape === null ? [data.length] : [rows.length, ...rowShape], data),
    ];
  });
  const [rows = []] = Object.values(columns);
  if (rowShape === null)
    tensors.push([
      shapeName,
      {
        ...fromInt64(rows.flatMap((row) => [...row.shape])),
        shape: [rows.length, latentDimensions],
      },
    ]);
  return tensors;
}

/** C, h, w. */
const latentDimensions = 3;

export function concatenated(parts: readonly Float32Array[]): Float32Array {
  const data = new Float32Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return data;
}
