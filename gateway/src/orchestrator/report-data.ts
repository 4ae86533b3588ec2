/**
 * The run as the evaluator's report shows it: `run_json` of WriteReport. Its keys are part of the
 * wire contract, hence snake_case.
 */
import { jobKey } from '../domain/plan.js';
import { progressOf } from '../domain/progress.js';
import type { MetricsLine } from './metrics-log.js';
import type { RunRecord } from './record.js';

export interface ReportStep {
  step: number;
  loss: number;
  error_real: number;
  error_generated: number;
  opponent_error_real: number;
  opponent_error_generated: number;
  implicit_accuracy: number;
  loser_scale?: number;
  grad_norm: number;
  learning_rate: number;
  beta: number;
  seconds: number;
}

export interface ReportData {
  run_id: string;
  /** The resolved config. */
  config: RunRecord['config'];
  resolution: number;
  status: string;
  best_model: string;
  warnings: string[];
  dead_jobs: { key: string; reason: string; attempts: number }[];
  created_at: string;
  /** Seconds per stage. */
  timings: Record<string, number>;
  /** Per model, in the order of steps. */
  curves: Record<string, ReportStep[]>;
}

export function reportData(
  record: RunRecord,
  curves: Record<string, MetricsLine[]>,
  now: number,
): ReportData {
  const { state } = record;
  const stages = progressOf(state, now).stages.filter(
    (stage) => stage.stage !== 'report' && stage.state !== 'skipped',
  );
  return {
    run_id: record.runId,
    config: record.config,
    resolution: record.resolution,
    // The report is the last stage: once it is written, the run has succeeded.
    status: 'succeeded',
    best_model: state.bestModel,
    warnings: state.warnings,
    dead_jobs: deadJobs(record),
    created_at: new Date(state.createdAt).toISOString(),
    timings: Object.fromEntries(stages.map(({ stage, seconds }) => [stage, seconds])),
    curves: Object.fromEntries(
      Object.entries(curves).map(([model, lines]) => [model, lines.map(toStep)]),
    ),
  };
}

function toStep(line: MetricsLine): ReportStep {
  return {
    step: line.step,
    loss: line.loss,
    error_real: line.errorReal,
    error_generated: line.errorGenerated,
    opponent_error_real: line.opponentErrorReal,
    opponent_error_generated: line.opponentErrorGenerated,
    implicit_accuracy: line.implicitAccuracy,
    ...(line.loserScale !== undefined && { loser_scale: line.loserScale }),
    grad_norm: line.gradNorm,
    learning_rate: line.learningRate,
    beta: line.beta,
    seconds: line.seconds,
  };
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
