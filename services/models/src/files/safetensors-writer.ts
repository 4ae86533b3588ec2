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

export type FileDtype =
  | 'F64'
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'I64'
  | 'I32'
  | 'I16'
  | 'I8'
  | 'U8'
  | 'BOOL';

export const dtypeBytes: Readonly<Record<FileDtype, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

export interface TensorSource {
  name: string;
  dtype: FileDtype;
  shape: readonly number[];
  /** The little-endian bytes, in order; read once. */
  chunks: () => Iterable<Uint8Array>;
}

export function tensorBytes({ dtype, shape }: Pick<TensorSource, 'dtype' | 'shape'>): number {
  return shape.reduce((product, n) => product * n, dtypeBytes[dtype]);
}

/** Durable, and under its name only when it is complete. */
export function writeSafetensorsFile(path: string, tensors: readonly TensorSource[]): void {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  // Wider types first, then by name: every tensor is aligned.
  const sorted = [...tensors].sort(
    (a, b) => dtypeBytes[b.dtype] - dtypeBytes[a.dtype] || (a.name < b.name ? -1 : 1),
  );
  let at = 0;
  for (const tensor of sorted) {
    const end = at + tensorBytes(tensor);
    header[tensor.name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [at, end] };
    at = end;
  }
  let json = JSON.stringify(header);
  json += ' '.repeat((8 - (Buffer.byteLength(json) % 8)) % 8);
  const text = Buffer.from(json, 'utf8');
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  const temporary = `${path}.part`;
  const file = openSync(temporary, 'w');
  try {
    writeAll(file, prefix);
    writeAll(file, text);
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
