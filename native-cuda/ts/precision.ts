import type { Engine } from './engine.js';
import type { NativePrecision } from './native.js';

export interface PrecisionChoice {
  precision: NativePrecision;
  /** Why, in one sentence with the numbers. */
  reason: string;
}

/** "auto": the precision of the faster training step, measured here and now. Keep the answer: a second measurement may differ. */
export async function choosePrecision(engine: Pick<Engine, 'measurePrecision' | 'info'>): Promise<PrecisionChoice> {
  const { float32, bfloat16 } = await engine.measurePrecision();
  const precision = bfloat16 < float32 ? 'bfloat16' : 'float32';
  return {
    precision,
    reason: `a small training step on ${engine.info.isa} takes ${float32.toFixed(3)} s in float32 and ${bfloat16.toFixed(3)} s in bfloat16`,
  };
}
