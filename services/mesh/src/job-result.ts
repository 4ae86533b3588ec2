/** Results of jobs as they lie in the store: read by whoever asks whether a job is done. */
import { fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import { JobResultSchema, type JobResult } from '@spindle/proto';
import type { ArtifactStore } from './store/store.js';

type Results = Pick<ArtifactStore, 'getResult' | 'deleteResults'>;

/**
 * The result under `key`, of whatever run. Null where there is none, and for one that cannot be
 * read: it is dropped, since doing the job again gives the same.
 */
export async function readJobResult(key: string, store: Results): Promise<JobResult | null> {
  const json = await store.getResult(key);
  if (json === null) return null;
  try {
    const result = fromJsonString(JobResultSchema, json, { ignoreUnknownFields: true });
    if (result.result.case !== undefined && result.key === key) return result;
  } catch {
    // No JSON, or of other fields: as good as none.
  }
  await store.deleteResults(key);
  return null;
}

/** Commits a result; the one that stands, which may be of another worker of the same run. */
export async function commitJobResult(result: JobResult, store: ArtifactStore): Promise<JobResult> {
  const json = toJsonString(JobResultSchema, result);
  for (;;) {
    if ((await store.commitResult(result.key, json)) === 'committed') return result;
    const first = await readJobResult(result.key, store);
    if (first !== null && !(await isLeftOver(result.key, first, result, store))) return first;
  }
}

/** What jobs, results and trainings carry of their run. */
interface OfRun {
  runCreatedMs: bigint;
}

/**
 * Whether what the store has under `key` was left by an earlier run of this id; it is then deleted.
 * FAILED_PRECONDITION where it is of a later one: the work in hand is of a run that was deleted.
 */
export async function isLeftOver(
  key: string,
  stored: OfRun,
  wanted: OfRun,
  store: Pick<ArtifactStore, 'deleteResults'>,
): Promise<boolean> {
  if (stored.runCreatedMs === wanted.runCreatedMs) return false;
  if (stored.runCreatedMs > wanted.runCreatedMs)
    throw new SpindleError(
      'FAILED_PRECONDITION',
      `${key}: this work is of a run that was deleted; a later run of its id has a result here`,
    );
  await store.deleteResults(key);
  return true;
}
