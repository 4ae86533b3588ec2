/** The Run message of the public API, from the record. */
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { DeadJobSchema, RunSchema, RunStatus, StageProgressSchema, type Run } from '@spindle/proto';
import { progressOf, type StageProgress } from '../domain/progress.js';
import { standingOf } from '../domain/standing.js';
import type { RunStatus as DomainStatus } from '../domain/state.js';
import { deadJobs, judgedTrainings } from '../orchestrator/report-data.js';
import type { RunRecord } from '../orchestrator/record.js';
import type { UnreadableRun } from '../orchestrator/records.js';
import { fromSummary } from '../orchestrator/wire.js';

const statuses: Record<DomainStatus, RunStatus> = {
  queued: RunStatus.QUEUED,
  running: RunStatus.RUNNING,
  paused: RunStatus.PAUSED,
  succeeded: RunStatus.SUCCEEDED,
  failed: RunStatus.FAILED,
  cancelled: RunStatus.CANCELLED,
};

/** All of it. */
export function toRun(record: RunRecord, directory: string, now: number): Run {
  const { state, config } = record;
  const { run, stages } = outline(record, directory, now);
  run.configJson = JSON.stringify(config);
  run.stages = stages.map((stage) => create(StageProgressSchema, stage));
  run.results = state.results.map(fromSummary);
  run.warnings = state.warnings;
  run.judgedTrainings = judgedTrainings(record);
  run.deadJobs = deadJobs(record).map((job) => create(DeadJobSchema, job));
  return run;
}

const underWay: readonly StageProgress['state'][] = ['running', 'paused', 'stopped'];

/** What lists have: RUN_VIEW_BASIC. */
export function toSummary(record: RunRecord, directory: string, now: number): Run {
  const { run, stages } = outline(record, directory, now);
  run.stages = stages
    .filter(({ state }) => underWay.includes(state))
    .map((stage) => create(StageProgressSchema, stage));
  return run;
}

function outline(
  { runId, config, state }: RunRecord,
  directory: string,
  now: number,
): { run: Run; stages: StageProgress[] } {
  const { stages, etaSeconds } = progressOf(state, now);
  const { bestScore, ...standing } = standingOf(state, stages);
  const run = create(RunSchema, {
    runId,
    status: statuses[state.status],
    reason: state.reason,
    createdAt: timestampFromMs(state.createdAt),
    updatedAt: timestampFromMs(state.updatedAt),
    bestModel: state.bestModel,
    directory,
    etaSeconds,
    name: config.name,
    ...standing,
    // A score that is not finite is null in a record.
    ...(typeof bestScore === 'number' && { bestScore }),
  });
  return { run, stages };
}

/** A run of which only this can be said. */
export function unreadableRun({ runId, reason }: UnreadableRun, directory: string): Run {
  return create(RunSchema, {
    runId,
    status: RunStatus.UNREADABLE,
    reason,
    directory,
    name: runId,
  });
}
