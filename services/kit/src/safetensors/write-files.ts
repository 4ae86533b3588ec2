/**
 * Writes safetensors files a chunk at a time, whole or cut into shards with an index, as diffusers
 * and transformers name them.
 */
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { tensorBytes, type TensorDtype } from './dtypes.js';
import { encodeHeader, inFileOrder } from './header.js';

/** A tensor whose bytes are made, or read, when they are written. */
export interface TensorSource {
  name: string;
  dtype: TensorDtype;
  shape: readonly number[];
  /** The little-endian bytes, in order; read once. */
  chunks: () => Iterable<Uint8Array>;
}

/** A tensor that is a hole in the file: zeros that take no disk. */
export type HollowTensor = Omit<TensorSource, 'chunks'> & { chunks: null };

/** Durable, and under its name only when it is complete. */
export function writeSafetensorsFile(
  path: string,
  tensors: readonly (TensorSource | HollowTensor)[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): void {
  const sorted = inFileOrder(tensors);
  const temporary = `${path}.part`;
  const file = openSync(temporary, 'w');
  try {
    let end = writeAll(file, encodeHeader(sorted, metadata), 0);
    for (const tensor of sorted) {
      const expected = end + tensorBytes(tensor);
      if (tensor.chunks === null) {
        end = expected;
        continue;
      }
      for (const chunk of tensor.chunks()) end = writeAll(file, chunk, end);
      if (end !== expected)
        throw new RangeError(
          `${path}: ${tensor.name}: expected ${tensorBytes(tensor)} bytes, got ` +
            `${end - expected + tensorBytes(tensor)}`,
        );
    }
    // Holes at the end count too.
    ftruncateSync(file, end);
    fsyncSync(file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
}

/** Returns where the bytes end. */
function writeAll(file: number, bytes: Uint8Array, at: number): number {
  for (let done = 0; done < bytes.byteLength; )
    done += writeSync(file, bytes, done, Math.min(bytes.byteLength - done, 1 << 30), at + done);
  return at + bytes.byteLength;
}

/** "<stem>[.variant].safetensors", or shards of at most `shardBytes` and their index. */
export function writeWeights(
  directory: string,
  stem: string,
  tensors: readonly (TensorSource | HollowTensor)[],
  options: { variant?: string | undefined; shardBytes?: number } = {},
): string[] {
  const { variant, shardBytes = Number.POSITIVE_INFINITY } = options;
  const name = variant === undefined ? stem : `${stem}.${variant}`;
  const shards: (TensorSource | HollowTensor)[][] = [];
  let room = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor);
    if (shards.length === 0 || bytes > room) {
      shards.push([]);
      room = shardBytes;
    }
    shards.at(-1)?.push(tensor);
    room -= bytes;
  }
  if (shards.length <= 1) {
    const file = join(directory, `${name}.safetensors`);
    writeSafetensorsFile(file, tensors);
    return [file];
  }
  const digits = (n: number): string => String(n).padStart(5, '0');
  const map: Record<string, string> = {};
  const files = shards.map((shard, i) => {
    const file = `${name}-${digits(i + 1)}-of-${digits(shards.length)}.safetensors`;
    writeSafetensorsFile(join(directory, file), shard);
    for (const tensor of shard) map[tensor.name] = file;
    return join(directory, file);
  });
  const total = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  const index =
    variant === undefined
      ? `${stem}.safetensors.index.json`
      : `${stem}.safetensors.index.${variant}.json`;
  writeFileSync(
    join(directory, index),
    `${JSON.stringify({ metadata: { total_size: total }, weight_map: map }, null, 2)}\n`,
  );
  return files;
}
