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
  store: Pick<ArtifactStore, 'getResult' | 'commitResult' | 'deleteResults'>,
  runId: string,
  asked: Precision,
  measure: () => Promise<RunPrecision>,
): Promise<RunPrecision> {
  if (asked === Precision.FLOAT32) return { precision: 'float32', reason: 'as configured' };
  if (asked === Precision.BFLOAT16) return { precision: 'bfloat16', reason: 'as configured' };
  if (runId === '') return measure();
  const key = `${runId}/precision`;
  const kept = parse(await store.getResult(key));
  if (kept !== null) return kept;
  const choice = await measure();
  for (;;) {
    if ((await store.commitResult(key, JSON.stringify(choice))) === 'committed') return choice;
    const first = parse(await store.getResult(key));
    if (first !== null) return first;
    // Of a version that sealed nothing, and damaged: it would keep every other choice out.
    await store.deleteResults(key);
  }
}

/** Null for what is no choice. */
function parse(json: string | null): RunPrecision | null {
  try {
    const { precision, reason = '' } = JSON.parse(json ?? '') as Partial<RunPrecision>;
    return precision === 'float32' || precision === 'bfloat16' ? { precision, reason } : null;
  } catch {
    return null;
  }
}
