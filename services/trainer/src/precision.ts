import { SpindleError } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import type { PrecisionChoice } from '@spindle/models';
import { Precision } from '@spindle/proto';
import type { TrainerEngine } from './engine.js';

/**
 * "auto" is measured once, and its answer is kept under "<run>/precision" in the store: the first
 * process to ask decides for the whole run, so that a resumed run goes on as it began.
 */
export async function resolvePrecision(
  asked: Precision,
  runId: string,
  store: ArtifactStore,
  engine: TrainerEngine,
): Promise<PrecisionChoice> {
  if (asked === Precision.FLOAT32) return { precision: 'float32', reason: 'as configured' };
  if (asked === Precision.BFLOAT16) return { precision: 'bfloat16', reason: 'as configured' };
  const key = `${runId}/precision`;
  const kept = await store.getResult(key);
  if (kept !== null) return parse(kept, key);
  const choice = await engine.choosePrecision();
  if ((await store.commitResult(key, JSON.stringify(choice))) === 'committed') return choice;
  return parse((await store.getResult(key)) ?? '', key);
}

function parse(json: string, key: string): PrecisionChoice {
  const { precision, reason = '' } = JSON.parse(json) as Partial<PrecisionChoice>;
  if (precision !== 'float32' && precision !== 'bfloat16') {
    throw new SpindleError(
      'DATA_LOSS',
      `${key}: precision: expected float32 or bfloat16, got ${JSON.stringify(precision)}`,
    );
  }
  return { precision, reason };
}
