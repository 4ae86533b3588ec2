/** Names, types and shapes of a safetensors file, without its data. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { EngineError, invalid } from '@spindle/native';
import { describe, isObject, parseJson } from './json.js';

export interface HeaderTensor {
  dtype: string;
  shape: number[];
}

const maxHeaderBytes = 100_000_000;

export function readSafetensorsHeader(file: string): Map<string, HeaderTensor> {
  let descriptor: number;
  try {
    descriptor = openSync(file, 'r');
  } catch (cause) {
    throw new EngineError(
      'INVALID_ARGUMENT',
      `${file}: expected a safetensors file, got ${(cause as Error).message}`,
      { cause },
    );
  }
  try {
    const size = fstatSync(descriptor).size;
    const prefix = Buffer.alloc(8);
    const bytes =
      readSync(descriptor, prefix, 0, 8, 0) === 8
        ? Number(prefix.readBigUInt64LE())
        : Number.POSITIVE_INFINITY;
    if (bytes > Math.min(size - 8, maxHeaderBytes))
      throw invalid(
        file,
        `expected a safetensors header within the file's ${size} bytes, got one of ${bytes}`,
      );
    const text = Buffer.alloc(bytes);
    readSync(descriptor, text, 0, bytes, 8);
    const header = parseJson(text.toString(), file);
    if (!isObject(header)) throw invalid(file, `expected a header object, got ${describe(header)}`);
    const tensors = new Map<string, HeaderTensor>();
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      const { dtype, shape } = isObject(entry) ? entry : {};
      if (
        typeof dtype !== 'string' ||
        !Array.isArray(shape) ||
        !shape.every((n) => typeof n === 'number')
      )
        throw invalid(file, `${name}: expected dtype and shape, got ${describe(entry)}`);
      tensors.set(name, { dtype, shape });
    }
    return tensors;
  } finally {
    closeSync(descriptor);
  }
}
