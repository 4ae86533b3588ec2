/** What is said of a training that was judged while it went on, the same everywhere. */
import type { JudgedTraining } from '../gen/spindle/v1/evaluator_service_pb.js';

/** Which step's weights it left, and why; empty while that is open. */
export function keptSentence(training: JudgedTraining): string {
  const { model, metric, steps, keptStep, keepsBest } = training;
  if (keptStep === 0) return '';
  const best = steps.find(({ step }) => step === keptStep);
  if (!keepsBest) return `${model} is what its last step ${keptStep} left.`;
  if (!best || !Number.isFinite(best.mean))
    return `${model} is what its last step ${keptStep} left, since no step has a score.`;
  return (
    `${model} is what step ${keptStep} left, with the best mean by ${metric} ` +
    `(${best.mean.toFixed(3)} ± ${best.standardError.toFixed(3)}) of ${steps.length} judged steps.`
  );
}
