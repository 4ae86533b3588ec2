/** One optimiser step on all ranks: the gradients of every local batch, then the optimiser. */
import { nowMs, recordPhases, SpindleError } from '@spindle/kit';
import type { TrainStepResultDto } from '@spindle/native';
import { enumName, ObjectiveSchema, type ReportRequest, type TrainStep } from '@spindle/proto';
import type { TrainCall } from './call.js';
import { saturatedLogit } from './domain/guard.js';
import {
  gatherMetrics,
  meanMargin,
  notFinite,
  saturatedFraction,
  type StepMetrics,
} from './domain/metrics.js';
import type { RankTraining } from './ranks/rank-training.js';
import { RankLost } from './ranks/ranks.js';

export interface StepPlan {
  /** The number of the step, from 0. */
  step: number;
  /** The objective's beta in this step; 0 without an opponent. */
  beta: number;
  learningRateScale: number;
}

export interface TakenStep {
  report: TrainStep;
  /** The fraction of the pairs whose logit is saturated. */
  saturated: number;
  /** The mean of logit / beta over the pairs. */
  margin: number;
  /** Set where another rank was lost after this one had taken the step. */
  lost: RankLost | undefined;
}

/** Takes the step. Throws DIVERGED where one of its numbers is not finite. */
export async function takeStep(
  plan: StepPlan,
  own: RankTraining,
  call: TrainCall,
): Promise<TakenStep> {
  const { request, settings, deps, signal } = call;
  const { step, beta } = plan;
  const started = nowMs();
  const gradients = await deps.ranks.onAllRanks(
    { case: 'gradients', value: { step, beta } },
    (linked) => own.gradients(step, beta, linked),
    signal,
  );
  const phases = [...gradients.own.phases];
  const parts = [...gradients.own.parts, ...partsOf(gradients.reports)];
  // From a device there are no parts yet: they come with the step, which the device leaves out
  // when a number is not finite.
  expectFinite(gatherMetrics(parts));
  const began = nowMs();
  const { result, reports, lost } = await apply(plan, own, call);
  parts.push(...result.errors, ...partsOf(reports));
  const metrics = gatherMetrics(parts);
  expectFinite(metrics);
  for (const phase of result.phases) {
    phases.push({ ...phase, startMs: phase.startMs + began - started });
  }
  const { gradNorm, learningRate } = result;
  if (!Number.isFinite(gradNorm)) throw new SpindleError('DIVERGED', `gradNorm is ${gradNorm}`);
  recordPhases(phases, started);
  const seconds = (nowMs() - started) / 1000;
  deps.instruments.stepDone(metrics, seconds, settings.batchSize, {
    run: request.runId,
    model: request.modelName,
    objective: enumName(ObjectiveSchema, settings.objective),
  });
  const report: TrainStep = {
    ...metrics,
    step: step + 1,
    gradNorm,
    learningRate,
    beta,
    seconds,
    phases: phases.map((phase) => ({ ...phase, $typeName: 'spindle.v1.PhaseTiming' as const })),
    $typeName: 'spindle.v1.TrainStep',
  };
  const saturated = saturatedFraction(parts, beta, saturatedLogit);
  return { report, saturated, margin: meanMargin(metrics), lost };
}

/**
 * Once rank 0 has taken the step, it counts and can be checkpointed, whatever becomes of the other
 * ranks.
 */
async function apply(
  { step, learningRateScale }: StepPlan,
  own: RankTraining,
  { deps, signal }: TrainCall,
): Promise<{
  result: TrainStepResultDto;
  reports: ReportRequest[];
  lost: RankLost | undefined;
}> {
  const taken: { result?: TrainStepResultDto } = {};
  try {
    const { own: result, reports } = await deps.ranks.onAllRanks(
      { case: 'apply', value: { step, learningRateScale } },
      async (linked) => (taken.result = await own.apply(step, learningRateScale, linked)),
      signal,
    );
    return { result, reports, lost: undefined };
  } catch (thrown) {
    if (taken.result === undefined || !(thrown instanceof RankLost)) throw thrown;
    return { result: taken.result, reports: [], lost: thrown };
  }
}

function partsOf(reports: readonly ReportRequest[]): ReportRequest['parts'] {
  return reports.flatMap((report) => report.parts);
}

function expectFinite(metrics: StepMetrics): void {
  const broken = notFinite(metrics);
  if (broken !== null) throw new SpindleError('DIVERGED', broken);
}
