/** A file that is read in places, and the tensors that lie in it. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { EngineError, invalid } from '@spindle/native';
import { readSafetensorsHeader, type TensorSource } from '@spindle/kit';

const chunkBytes = 16 << 20;

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
  const { tensors, dataStart } = readSafetensorsHeader(file.path);
  return [...tensors].map(([name, { dtype, shape, begin, end }]) => ({
    name,
    dtype,
    shape,
    chunks: () => file.chunks(dataStart + begin, end - begin),
  }));
}

/** All bytes of a tensor in one piece. */
export function bytesOf(source: TensorSource): Buffer {
  return Buffer.concat([...source.chunks()]);
}
