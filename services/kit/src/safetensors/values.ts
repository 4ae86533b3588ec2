/** Tensors as numbers, and numbers as tensors. */
import { SpindleError } from '../errors.js';
import { dtypeBytes, type TensorDtype } from './dtypes.js';

/** A dense little-endian tensor; `data` is a view, nothing is copied on reading. */
export interface TensorEntry {
  dtype: TensorDtype;
  shape: number[];
  data: Uint8Array;
}

/** Values as float32, whatever the tensor's type. */
export function asFloat32(t: TensorEntry): Float32Array {
  if (t.dtype === 'F32') return new Float32Array(alignedCopy(t.data));
  return Float32Array.from(asNumbers(t));
}

/** Values as doubles; an I64 beyond 2^53 is refused instead of rounded. */
export function asNumbers(t: TensorEntry): number[] {
  const view = new DataView(t.data.buffer, t.data.byteOffset, t.data.byteLength);
  const count = t.data.byteLength / dtypeBytes[t.dtype];
  const read = reader(t.dtype, view);
  return Array.from({ length: count }, (_, i) => read(i));
}

/** An F32 tensor of values that are already in order. */
export function fromFloat32(shape: number[], data: Float32Array): TensorEntry {
  const count = shape.reduce((a, b) => a * b, 1);
  if (count !== data.length) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `shape [${shape.join(', ')}]: expected ${count} values, got ${data.length}`,
    );
  }
  return {
    dtype: 'F32',
    shape: [...shape],
    data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  };
}

/** An I64 tensor of one dimension. */
export function fromInt64(values: number[]): TensorEntry {
  const data = new BigInt64Array(values.map((value) => BigInt(value)));
  return { dtype: 'I64', shape: [values.length], data: new Uint8Array(data.buffer) };
}

function reader(dtype: TensorDtype, view: DataView): (i: number) => number {
  switch (dtype) {
    case 'F32':
      return (i) => view.getFloat32(i * 4, true);
    case 'F64':
      return (i) => view.getFloat64(i * 8, true);
    case 'I32':
      return (i) => view.getInt32(i * 4, true);
    case 'I16':
      return (i) => view.getInt16(i * 2, true);
    case 'I8':
      return (i) => view.getInt8(i);
    case 'BOOL':
    case 'U8':
      return (i) => view.getUint8(i);
    case 'F16':
      return (i) => halfToNumber(view.getUint16(i * 2, true));
    case 'BF16': {
      const scratch = new DataView(new ArrayBuffer(4));
      return (i) => {
        scratch.setUint32(0, view.getUint16(i * 2, true) * 0x10000);
        return scratch.getFloat32(0);
      };
    }
    case 'I64':
      return (i) => {
        const value = view.getBigInt64(i * 8, true);
        const number = Number(value);
        if (!Number.isSafeInteger(number))
          throw new SpindleError(
            'INVALID_ARGUMENT',
            `I64 value ${value.toString()}: expected at most 2^53`,
          );
        return number;
      };
  }
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function alignedCopy(data: Uint8Array): ArrayBuffer {
  const copy = new ArrayBuffer(data.byteLength);
  new Uint8Array(copy).set(data);
  return copy;
}
