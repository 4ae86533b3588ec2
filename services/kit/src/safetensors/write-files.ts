/**
 * Writes safetensors files a chunk at a time, whole or cut into shards with an index, as diffusers
 * and transformers name them.
 */
import {
  closeSync,
  fsyncSync,
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

/** Durable, and under its name only when it is complete. */
export function writeSafetensorsFile(
  path: string,
  tensors: readonly TensorSource[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): void {
  const sorted = inFileOrder(tensors);
  const temporary = `${path}.part`;
  const file = openSync(temporary, 'w');
  try {
    writeAll(file, encodeHeader(sorted, metadata));
    for (const tensor of sorted) {
      let written = 0;
      for (const chunk of tensor.chunks()) {
        writeAll(file, chunk);
        written += chunk.byteLength;
      }
      if (written !== tensorBytes(tensor))
        throw new RangeError(
          `${path}: ${tensor.name}: expected ${tensorBytes(tensor)} bytes, got ${written}`,
        );
    }
    fsyncSync(file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.byteLength; )
    done += writeSync(file, bytes, done, Math.min(bytes.byteLength - done, 1 << 30));
}

/** "<stem>[.variant].safetensors", or shards of at most `shardBytes` and their index. */
export function writeWeights(
  directory: string,
  stem: string,
  tensors: readonly TensorSource[],
  options: { variant?: string | undefined; shardBytes?: number } = {},
): string[] {
  const { variant, shardBytes = Number.POSITIVE_INFINITY } = options;
  const name = variant === undefined ? stem : `${stem}.${variant}`;
  const shards: TensorSource[][] = [];
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
