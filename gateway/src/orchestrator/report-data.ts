/** The run as the evaluator's report shows it. */
import { create } from '@bufbuild/protobuf';
import { RunReportSchema, type RunReport } from '@spindle/proto';
import { modelName } from '../domain/model.js';
import { jobKey, selectMetric, stagesOf } from '../domain/plan.js';
import { progressOf } from '../domain/progress.js';
import { leftOutOf, stageOf } from '../domain/state.js';
import type { MetricsLine } from './metrics-log.js';
import type { RunRecord } from './record.js';
import { toStep } from './wire.js';

export function runReport(
  record: RunRecord,
  curves: Record<string, MetricsLine[]>,
  now: number,
): RunReport {
  const { state } = record;
  const stages = progressOf(state, now).stages.filter(
    (stage) => stage.stage !== 'report' && stage.state !== 'skipped',
  );
  return create(RunReportSchema, {
    runId: record.runId,
    configJson: JSON.stringify(record.config),
    // The report is the last stage: once it is written, the run has succeeded.
    status: 'succeeded',
    bestModel: state.bestModel,
    selectMetric: selectMetric(state.plan) ?? '',
    averageMetrics: record.config.evaluation?.average ?? [],
    warnings: state.warnings,
    timings: stages.map(({ stage, seconds }) => ({ stage, seconds })),
    judgedPairs: judgedPairs(record),
    curves: Object.entries(curves).map(([model, lines]) => ({ model, steps: lines.map(toStep) })),
  });
}

function judgedPairs({ state }: RunRecord) {
  return stagesOf(state.plan).flatMap((stage) => {
    if (stage.kind !== 'score') return [];
    const own = stageOf(state, stage.name);
    if (own.status !== 'done') return [];
    return [{ opponent: modelName(stage.model), pairs: own.items, leftOut: leftOutOf(own) }];
  });
}

export function deadJobs(record: RunRecord): { key: string; reason: string; attempts: number }[] {
  return Object.entries(record.state.stages).flatMap(([name, stage]) =>
    stage.dead.map(({ shard, reason, attempts }) => ({
      key: jobKey(record.runId, name, shard),
      reason,
      attempts,
    })),
  );
}
