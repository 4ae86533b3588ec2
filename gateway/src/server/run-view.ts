/** The Run message of the public API, from the record. */
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { DeadJobSchema, RunSchema, RunStatus, StageProgressSchema, type Run } from '@spindle/proto';
import { progressOf } from '../domain/progress.js';
import type { RunStatus as DomainStatus } from '../domain/state.js';
import { deadJobs } from '../orchestrator/report-data.js';
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

export function toRun(record: RunRecord, directory: string, now: number): Run {
  const { state } = record;
  const progress = progressOf(state, now);
  return create(RunSchema, {
    runId: record.runId,
    status: statuses[state.status],
    reason: state.reason,
    createdAt: timestampFromMs(state.createdAt),
    updatedAt: timestampFromMs(state.updatedAt),
    configJson: JSON.stringify(record.config),
    stages: progress.stages.map((stage) => create(StageProgressSchema, stage)),
    results: state.results.map(fromSummary),
    bestModel: state.bestModel,
    warnings: state.warnings,
    deadJobs: deadJobs(record).map((job) => create(DeadJobSchema, job)),
    directory,
    etaSeconds: progress.etaSeconds,
  });
}

/** A run of which only this can be said. */
export function unreadableRun({ runId, reason }: UnreadableRun, directory: string): Run {
  return create(RunSchema, { runId, status: RunStatus.UNREADABLE, reason, directory });
}
