/**
 * The few lines of safetensors that replaying a fixture needs: every float32 and int64 tensor of
 * one file.
 */
import { readFileSync } from 'node:fs';
import { EngineError, invalid } from '@spindle/native';
import { describe, isObject, parseJson } from '../files/json.js';

export interface ExpectedTensor {
  shape: number[];
  data: Float32Array;
}

export function readExpected(file: string): Map<string, ExpectedTensor> {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw new EngineError(
      'INVALID_ARGUMENT',
      `${file}: expected a safetensors file, got ${(cause as Error).message}`,
      { cause },
    );
  }
  const length = bytes.length < 8 ? Number.POSITIVE_INFINITY : Number(bytes.readBigUInt64LE(0));
  if (8 + length > bytes.length)
    throw invalid(
      file,
      `expected a header within the file's ${bytes.length} bytes, got one of ${length}`,
    );
  const header = parseJson(bytes.toString('utf8', 8, 8 + length), file);
  if (!isObject(header)) throw invalid(file, `expected a header object, got ${describe(header)}`);
  const tensors = new Map<string, ExpectedTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    if (!isObject(entry))
      throw invalid(file, `${name}: expected an object, got ${describe(entry)}`);
    const { dtype, shape, data_offsets: offsets } = entry;
    if (dtype !== 'F32') throw invalid(file, `${name}: expected dtype F32, got ${describe(dtype)}`);
    const sizes = Array.isArray(shape) ? shape.filter((n) => typeof n === 'number') : [];
    const [begin, end] = Array.isArray(offsets) ? offsets : [];
    if (typeof begin !== 'number' || typeof end !== 'number')
      throw invalid(file, `${name}: expected two data_offsets, got ${describe(offsets)}`);
    const elements = sizes.reduce((product, n) => product * n, 1);
    if (begin < 0 || end - begin !== elements * 4 || 8 + length + end > bytes.length) {
      throw invalid(
        file,
        `${name}: expected ${elements * 4} bytes within the file, got data_offsets ${describe(offsets)}`,
      );
    }
    // A copy, because the file's offset need not be a multiple of four.
    const copy = new Uint8Array(bytes.subarray(8 + length + begin, 8 + length + end));
    tensors.set(name, { shape: sizes, data: new Float32Array(copy.buffer) });
  }
  return tensors;
}
