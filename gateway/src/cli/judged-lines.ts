/** Scores while training, a line each. */
import { keptSentence, type Run } from '@spindle/proto';

/**
 * "spin1 step 50: pick 21.302 ± 0.104 (16 images)", and of a training that has ended what it kept.
 */
export function judgedLines({ judgedTrainings }: Run): string[] {
  return judgedTrainings.flatMap((training) => {
    const { model, metric, steps } = training;
    const kept = keptSentence(training);
    return [
      ...steps.map(
        ({ step, mean, standardError, n }) =>
          `${model} step ${step}: ${metric} ${mean.toFixed(3)} ± ${standardError.toFixed(3)} ` +
          `(${n} images)`,
      ),
      ...(training.awaited > 0
        ? [`${model} waits for ${training.awaited} judged steps before one is kept`]
        : []),
      ...(kept === '' ? [] : [kept]),
    ];
  });
}
