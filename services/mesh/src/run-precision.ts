import { SpindleError } from '@spindle/kit';
import { Precision } from '@spindle/proto';
import type { ArtifactStore } from './store/store.js';

/** What a run computes in, and why. */
export interface RunPrecision {
  precision: 'float32' | 'bfloat16';
  reason: string;
}

/**
 * A run's precision. "auto" is measured once, and the answer is kept under "<run>/precision" in the
 * store: the first process to ask decides for the whole run, so that no image and no weight depends
 * on a second measurement. Without a run (`runId` is empty) nothing is kept.
 */
export async function runPrecision(
  store: Pick<ArtifactStore, 'getResult' | 'commitResult'>,
  runId: string,
  asked: Precision,
  measure: () => Promise<RunPrecision>,
): Promise<RunPrecision> {
  if (asked === Precision.FLOAT32) return { precision: 'float32', reason: 'as configured' };
  if (asked === Precision.BFLOAT16) return { precision: 'bfloat16', reason: 'as configured' };
  if (runId === '') return measure();
  const key = `${runId}/precision`;
  const kept = await store.getResult(key);
  if (kept !== null) return parse(kept, key);
  const choice = await measure();
  if ((await store.commitResult(key, JSON.stringify(choice))) === 'committed') return choice;
  return parse((await store.getResult(key)) ?? '', key);
}

function parse(json: string, key: string): RunPrecision {
  const { precision, reason = '' } = JSON.parse(json) as Partial<RunPrecision>;
  if (precision !== 'float32' && precision !== 'bfloat16') {
    throw new SpindleError(
      'DATA_LOSS',
      `${key}: precision: expected float32 or bfloat16, got ${JSON.stringify(precision)}`,
    );
  }
  return { precision, reason };
}
