/** Writing of safetensors into memory. */
import { SpindleError } from '../errors.js';
import { tensorBytes } from './dtypes.js';
import { encodeHeader, inFileOrder } from './header.js';
import type { TensorEntry } from './values.js';

/** Deterministic: the same tensors give the same bytes. */
export function writeSafetensors(
  tensors: ReadonlyMap<string, TensorEntry>,
  metadata: Readonly<Record<string, string>> = {},
): Buffer {
  const sorted = inFileOrder([...tensors].map(([name, entry]) => ({ name, ...entry })));
  for (const { name, dtype, shape, data } of sorted) {
    const expected = tensorBytes({ dtype, shape });
    if (data.byteLength !== expected) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `tensor "${name}": expected ${expected} bytes for ${dtype} [${shape.join(', ')}], got ` +
          `${data.byteLength}`,
      );
    }
  }
  return Buffer.concat([encodeHeader(sorted, metadata), ...sorted.map(({ data }) => data)]);
}
