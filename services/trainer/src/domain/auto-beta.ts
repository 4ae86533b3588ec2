/**
 * Auto-beta: the largest beta up to the configured one with which the mean pair does not saturate.
 * A pair's margin is h = logit / beta. The logistic loss has the slope s where the logit is
 * ln((1 - s) / s), so the mean pair keeps the slope s with beta = ln((1 - s) / s) / mean h. The
 * mean is a moving one over the steps before, so a step does not depend on how it is cut into
 * micro-batches.
 */
const decay = 0.99;

export interface MarginAverage {
  /** The sum of decay^age * (1 - decay) * margin over the steps. */
  sum: number;
  steps: number;
}

export const noMargins: MarginAverage = { sum: 0, steps: 0 };

export function withMargin(average: MarginAverage, margin: number): MarginAverage {
  return { sum: decay * average.sum + (1 - decay) * margin, steps: average.steps + 1 };
}

export function autoBeta(beta: number, slope: number, average: MarginAverage): number {
  if (slope === 0 || average.steps === 0) return beta;
  const mean = average.sum / (1 - decay ** average.steps);
  return mean > 0 ? Math.min(beta, Math.log((1 - slope) / slope) / mean) : beta;
}

/** The average as a text for a checkpoint's metadata; readMargins() reads it. */
export function writeMargins(average: MarginAverage): string {
  return JSON.stringify(average);
}

export function readMargins(text: string | undefined): MarginAverage {
  const { sum = 0, steps = 0 } = JSON.parse(text ?? '{}') as Partial<MarginAverage>;
  return { sum, steps };
}
