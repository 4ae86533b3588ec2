/** The run as the evaluator's report shows it. */
import { create } from '@bufbuild/protobuf';
import {
  JudgedStepSchema,
  JudgedTrainingSchema,
  RunReportSchema,
  type JudgedTraining,
  type RunReport,
} from '@spindle/proto';
import { modelName } from '../domain/model.js';
import { judgingOf } from '../domain/judging.js';
import { jobKey, judgedSteps, selectMetric, stagesOf, trainingSteps } from '../domain/plan.js';
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
    judgedTrainings: judgedTrainings(record),
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

/** The curves of trainings that are judged while they go on; none before the first step is. */
export function judgedTrainings({ state }: RunRecord): JudgedTraining[] {
  return stagesOf(state.plan).flatMap((stage) => {
    if (stage.kind !== 'train') return [];
    const model = modelName(stage.model);
    const { judged = {}, kept = 0, unet, snapshots = {} } = state.training[model] ?? {};
    const keepsBest = judgingOf(state.plan, stage.model)?.keep === 'best';
    // What the last step has left is there with the end of the steps.
    const ended = trainingSteps(state.plan, stage.model) in snapshots;
    const open = judgedSteps(state.plan, stage.model).length - Object.keys(judged).length;
    const awaited = keepsBest && ended && !unet ? open : 0;
    const steps = Object.entries(judged).map(([step, of]) =>
      create(JudgedStepSchema, {
        step: Number(step),
        n: of.n,
        // Numbers that are not finite are null in a record.
        mean: (of.mean as number | null) ?? Number.NaN,
        standardError: (of.standardError as number | null) ?? Number.NaN,
      }),
    );
    if (steps.length === 0 && awaited === 0) return [];
    return create(JudgedTrainingSchema, {
      ...{ model, steps: steps.sort((a, b) => a.step - b.step), keptStep: kept },
      metric: selectMetric(state.plan) ?? '',
      ...{ keepsBest, awaited },
    });
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
