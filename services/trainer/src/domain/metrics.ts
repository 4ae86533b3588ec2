/** Metrics of one optimiser step, gathered over its micro-batches. */
import { RankErrorsSchema, type RankErrors, type StepNumbers } from '@spindle/proto';

/** Errors of one micro-batch by pair: the engine's arrays, or another rank's RankErrors. */
export type StepErrors = {
  [K in Exclude<keyof RankErrors, `$${string}`>]: RankErrors[K] extends number[]
    ? ArrayLike<number>
    : RankErrors[K];
};

/** The numbers of a step that come from its micro-batches. */
export type StepMetrics = Omit<
  StepNumbers,
  'step' | 'gradNorm' | 'learningRate' | 'beta' | 'seconds'
>;

/** Fraction of the pairs whose logit lies beyond ±limit. */
export function saturatedFraction(
  parts: readonly StepErrors[],
  beta: number,
  limit: number,
): number {
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
 * The mean of logit / beta over the pairs. The model tells the images of a pair apart by a
 * difference of errors; this is half of how much that difference exceeds the opponent's.
 */
export function meanMargin(metrics: StepMetrics): number {
  const gain =
    metrics.errorReal -
    metrics.opponentErrorReal -
    (metrics.errorGenerated - metrics.opponentErrorGenerated);
  return -0.5 * gain;
}

/** Means of the numbers that there are by pair, sums of those that are parts of the step's. */
export function gatherMetrics(parts: readonly StepErrors[]): StepMetrics {
  const all = (key: keyof StepErrors): number[] =>
    parts.flatMap(({ [key]: value }) => (typeof value === 'number' ? value : Array.from(value)));
  const told = RankErrorsSchema.fields.map(({ localName, fieldKind }): [string, number] => {
    const values = all(localName as keyof StepErrors);
    return [localName, fieldKind === 'list' ? mean(values) : sum(values)];
  });
  return {
    ...(Object.fromEntries(told) as Record<keyof StepErrors, number>),
    implicitAccuracy: implicitAccuracy(parts),
  };
}

/** Fraction of the pairs with a positive logit; 0 where there are no pairs. */
function implicitAccuracy(parts: readonly StepErrors[]): number {
  let pairs = 0;
  let positive = 0;
  for (const { errorReal, errorGenerated, opponentErrorReal, opponentErrorGenerated } of parts) {
    for (let i = 0; i < errorGenerated.length; i++, pairs++) {
      const real = (errorReal[i] ?? 0) - (opponentErrorReal[i] ?? 0);
      const generated = (errorGenerated[i] ?? 0) - (opponentErrorGenerated[i] ?? 0);
      if (real - generated < 0) positive++;
    }
  }
  return pairs === 0 ? 0 : positive / pairs;
}

/** The first of the step's numbers that is not finite, in words; null when all are. */
export function notFinite(metrics: StepMetrics): string | null {
  for (const [name, value] of Object.entries<number>(metrics)) {
    if (!Number.isFinite(value)) return `${name} is ${value}`;
  }
  return null;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : sum(values) / values.length;
}
