/** A precision as the engine calls it and as messages do. */
import type { NativePrecision } from '@spindle/native';
import { Precision } from '@spindle/proto';

export function wirePrecision(precision: NativePrecision): Precision {
  return precision === 'float32' ? Precision.FLOAT32 : Precision.BFLOAT16;
}

export function nativePrecision(precision: Precision): NativePrecision {
  return precision === Precision.BFLOAT16 ? 'bfloat16' : 'float32';
}
