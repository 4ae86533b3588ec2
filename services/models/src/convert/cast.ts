/** Tensors as another float type, in the pieces in which they are read. */
import { invalid } from '@spindle/native';
import { dtypeBytes, type TensorSource } from '@spindle/kit';
import { fromFloat16, toBfloat16, toFloat16 } from '../files/float16.js';

export const floatTypes = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const;
/** As --dtype spells it. */
export type FloatType = keyof typeof floatTypes;

type FloatDtype = (typeof floatTypes)[FloatType];

/** Integers and what has the type already stay as they are; `where` names the file in errors. */
export function castTo(type: FloatType, source: TensorSource, where: string): TensorSource {
  const to = floatTypes[type];
  const from = source.dtype;
  if (from === to || !isFloat(from)) return source;
  return {
    ...source,
    dtype: to,
    *chunks() {
      // A chunk may end within a number.
      let rest = Buffer.alloc(0);
      for (const chunk of source.chunks()) {
        const bytes = Buffer.concat([rest, chunk]);
        const count = Math.floor(bytes.length / dtypeBytes[from]);
        rest = bytes.subarray(count * dtypeBytes[from]);
        yield cast(bytes, count, { from, to, name: `${where}: ${source.name}` });
      }
    },
  };
}

function isFloat(dtype: string): dtype is FloatDtype {
  return Object.values<string>(floatTypes).includes(dtype);
}

function cast(
  bytes: Buffer,
  count: number,
  { from, to, name }: { from: FloatDtype; to: FloatDtype; name: string },
): Buffer {
  const out = Buffer.allocUnsafe(count * dtypeBytes[to]);
  const word = new DataView(new ArrayBuffer(4));
  for (let i = 0; i < count; i++) {
    let value: number;
    switch (from) {
      case 'F32':
        value = bytes.readFloatLE(4 * i);
        break;
      case 'F16':
        value = fromFloat16(bytes.readUInt16LE(2 * i));
        break;
      case 'BF16':
        word.setUint32(0, bytes.readUInt16LE(2 * i) * 0x10000);
        value = word.getFloat32(0);
        break;
    }
    switch (to) {
      case 'F32':
        out.writeFloatLE(value, 4 * i);
        break;
      case 'BF16':
        out.writeUInt16LE(toBfloat16(value), 2 * i);
        break;
      case 'F16': {
        const half = toFloat16(value);
        if ((half & 0x7fff) === 0x7c00 && Number.isFinite(value))
          throw invalid(
            name,
            `expected values that float16 holds (up to 65504), got ${value}; --dtype bfloat16 or ` +
              'float32 holds it',
          );
        out.writeUInt16LE(half, 2 * i);
        break;
      }
    }
  }
  return out;
}
