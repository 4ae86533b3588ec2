/** Metrics of one optimiser step, gathered over its micro-batches. */
export interface StepErrors {
  loss: number;
  loserScale: number;
  errorReal: ArrayLike<number>;
  errorGenerated: ArrayLike<number>;
  opponentErrorReal: ArrayLike<number>;
  opponentErrorGenerated: ArrayLike<number>;
}

export interface StepMetrics {
  loss: number;
  errorReal: number;
  errorGenerated: number;
  opponentErrorReal: number;
  opponentErrorGenerated: number;
  /** Share of pairs with a positive logit; 0 where there are no pairs. */
  implicitAccuracy: number;
  /** Mean factor on the generated images' gradients. */
  loserScale: number;
}

/** Share of pairs whose logit lies beyond ±limit. */
export function saturatedShare(parts: readonly StepErrors[], beta: number, limit: number): number {
  let pairs = 0;
  let beyond = 0;
  for (const { errorReal, errorGenerated, opponentErrorReal, opponentErrorGenerated } of parts) {
    for (let i = 0; i < errorGenerated.length; i++, pairs++) {
      const real = (errorReal[i] ?? 0) - (opponentErrorReal[i] ?? 0);
      const gain = real - ((errorGenerated[i] ?? 0) - (opponentErrorGenerated[i] ?? 0));
      if (Math.abs(0.5 * beta * gain) > limit) beyond++;
    }
  }
  return pairs === 0 ? 0 : beyond / pairs;
}

/**
 * Mean of logit / beta over the pairs: half of how much better than the opponent the model tells
 * them apart.
 */
export function meanMargin(metrics: StepMetrics): number {
  const gain =
    metrics.errorReal -
    metrics.opponentErrorReal -
    (metrics.errorGenerated - metrics.opponentErrorGenerated);
  return -0.5 * gain;
}

export function gatherMetrics(parts: readonly StepErrors[]): StepMetrics {
  let loss = 0;
  let loserScale = 0;
  const all = {
    errorReal: [] as number[],
    errorGenerated: [] as number[],
    opponentErrorReal: [] as number[],
    opponentErrorGenerated: [] as number[],
  };
  for (const part of parts) {
    loss += part.loss;
    loserScale += part.loserScale;
    for (const key of [
      'errorReal',
      'errorGenerated',
      'opponentErrorReal',
      'opponentErrorGenerated',
    ] as const)
      all[key].push(...Array.from(part[key]));
  }
  const positive = all.errorGenerated.filter((generated, i) => {
    const real = (all.errorReal[i] ?? 0) - (all.opponentErrorReal[i] ?? 0);
    return real - (generated - (all.opponentErrorGenerated[i] ?? 0)) < 0;
  });
  return {
    loss,
    errorReal: mean(all.errorReal),
    errorGenerated: mean(all.errorGenerated),
    opponentErrorReal: mean(all.opponentErrorReal),
    opponentErrorGenerated: mean(all.opponentErrorGenerated),
    implicitAccuracy:
      all.errorGenerated.length === 0 ? 0 : positive.length / all.errorGenerated.length,
    loserScale,
  };
}

/** The first of the step's numbers that is not finite, in words; null when all are. */
export function notFinite(metrics: StepMetrics): string | null {
  for (const [name, value] of Object.entries(metrics) as [string, number][]) {
    if (!Number.isFinite(value)) return `${name} is ${value}`;
  }
  return null;
}

function mean(values: readonly number[]): number {
  return values.length === 0
    ? 0
    : values.reduce((total, value) => total + value, 0) / values.length;
}
