/** Score jobs: what this worker does with them. */
import { create } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import { ScoreResultSchema, type Job, type JobResult } from '@spindle/proto';
import type { Scorer } from './score.js';

/** The scores of one job, metric by metric in the order of its items. */
export async function perform(
  { key, runId, work }: Job,
  scorer: Scorer,
  signal: AbortSignal,
): Promise<JobResult['result']> {
  if (work.case !== 'score') {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${key}: work: expected score, got ${work.case ?? 'nothing'}`,
    );
  }
  const { metrics, items } = work.value;
  const scores = await scorer.score({ runId, specs: metrics, items }, signal);
  return { case: 'score', value: create(ScoreResultSchema, { scores }) };
}
