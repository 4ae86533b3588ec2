/** A file that is read in places, and the tensors that lie in it. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { EngineError, invalid } from '@spindle/native';
import {
  dtypeBytes,
  tensorBytes,
  type FileDtype,
  type TensorSource,
} from '../files/safetensors-writer.js';
import { describe, isObject, parseJson } from '../files/json.js';

const chunkBytes = 16 << 20;
const maxHeaderBytes = 100_000_000;

export class RandomFile {
  readonly #file: number;
  readonly size: number;

  constructor(readonly path: string) {
    try {
      this.#file = openSync(path, 'r');
    } catch (cause) {
      throw new EngineError(
        'INVALID_ARGUMENT',
        `${path}: expected a readable file, got ${(cause as NodeJS.ErrnoException).code ?? 'none'}`,
        { cause },
      );
    }
    this.size = fstatSync(this.#file).size;
  }

  read(at: number, length: number): Buffer {
    if (at < 0 || length < 0 || at + length > this.size)
      throw invalid(
        this.path,
        `expected ${length} bytes at ${at}, got the end of the file at ${this.size}`,
      );
    const bytes = Buffer.allocUnsafe(length);
    for (let done = 0; done < length; ) {
      const count = readSync(this.#file, bytes, done, length - done, at + done);
      if (count === 0) throw invalid(this.path, `expected ${length} bytes at ${at}, got ${done}`);
      done += count;
    }
    return bytes;
  }

  *chunks(at: number, length: number): Generator<Uint8Array> {
    for (let done = 0; done < length; done += chunkBytes)
      yield this.read(at + done, Math.min(chunkBytes, length - done));
  }

  close(): void {
    closeSync(this.#file);
  }
}

/** The tensors of a safetensors file; their bytes are read when they are asked for. */
export function safetensorsSources(file: RandomFile): TensorSource[] {
  if (file.size < 8)
    throw invalid(file.path, `expected a safetensors file, got ${file.size} bytes`);
  const length = Number(file.read(0, 8).readBigUInt64LE());
  if (length > maxHeaderBytes || 8 + length > file.size)
    throw invalid(
      file.path,
      `expected a header within the file's ${file.size} bytes, got one of ${length}`,
    );
  const header = parseJson(file.read(8, length).toString('utf8'), file.path);
  if (!isObject(header))
    throw invalid(file.path, `expected a header object, got ${describe(header)}`);
  const sources: TensorSource[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const { dtype, shape, data_offsets: offsets } = isObject(entry) ? entry : {};
    if (typeof dtype !== 'string' || !(dtype in dtypeBytes))
      throw invalid(
        file.path,
        `${name}: dtype: expected one of ${Object.keys(dtypeBytes).join(', ')}, got ${describe(dtype)}`,
      );
    const sizes = Array.isArray(shape)
      ? shape.filter((n): n is number => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0)
      : [];
    const [begin, end] = Array.isArray(offsets) ? offsets : [];
    const bytes = tensorBytes({ dtype: dtype as FileDtype, shape: sizes });
    if (
      typeof begin !== 'number' ||
      typeof end !== 'number' ||
      begin < 0 ||
      end - begin !== bytes ||
      8 + length + end > file.size ||
      !Array.isArray(shape) ||
      sizes.length !== shape.length
    )
      throw invalid(
        file.path,
        `${name}: expected ${bytes} bytes within the file, got data_offsets ${describe(offsets)}`,
      );
    sources.push({
      name,
      dtype: dtype as FileDtype,
      shape: sizes,
      chunks: () => file.chunks(8 + length + begin, bytes),
    });
  }
  return sources;
}

/** All bytes of a tensor in one piece. */
export function bytesOf(source: TensorSource): Buffer {
  return Buffer.concat([...source.chunks()]);
}
