import { type Engine, type NativePrecision } from '@spindle/native';

/** What was measured to be faster, and in which words to say so. */
export interface PrecisionChoice {
  precision: NativePrecision;
  /** Why, in one sentence with the numbers. */
  reason: string;
}

// Within noise of each other, the exact one wins.
const worthwhile = 0.9;

export function faster(seconds: { float32: number; bfloat16: number }): NativePrecision {
  return seconds.bfloat16 < seconds.float32 * worthwhile ? 'bfloat16' : 'float32';
}

/**
 * "auto": bfloat16 where a training step is at least a tenth faster in it, measured here and now.
 * Keep the answer: a second measurement may differ.
 */
export async function choosePrecision(
  engine: Pick<Engine, 'measurePrecision' | 'info'>,
): Promise<PrecisionChoice> {
  const seconds = await engine.measurePrecision();
  const { float32, bfloat16 } = seconds;
  const precision = faster(seconds);
  return {
    precision,
    reason:
      `a small training step on ${engine.info.isa} takes ${float32.toFixed(3)} s in float32 and ` +
      `${bfloat16.toFixed(3)} s in bfloat16`,
  };
}
