/** Expected tensors of a fixture: every one of them is float32. */
import { readFileSync } from 'node:fs';
import { asFloat32, ensureError, readSafetensors } from '@spindle/kit';
import { EngineError, invalid } from '@spindle/native';

export interface ExpectedTensor {
  shape: number[];
  data: Float32Array;
}

/** By name; INVALID_ARGUMENT where the file is none or holds another type. */
export function readExpected(file: string): Map<string, ExpectedTensor> {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw new EngineError(
      'INVALID_ARGUMENT',
      `${file}: expected a safetensors file, got ${ensureError(cause).message}`,
      { cause },
    );
  }
  const { tensors } = readSafetensors(bytes, file);
  return new Map(
    [...tensors].map(([name, tensor]) => {
      if (tensor.dtype !== 'F32')
        throw invalid(file, `${name}: expected dtype F32, got ${tensor.dtype}`);
      return [name, { shape: tensor.shape, data: asFloat32(tensor) }];
    }),
  );
}
