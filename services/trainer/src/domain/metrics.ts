/** Metrics of one optimiser step, gathered over its micro-batches. */
import { RankErrorsSchema, type RankErrors, type StepNumbers } from '@spindle/proto';

/** RankErrors, as the engine or as another rank tells them. */
export type StepErrors = {
  [K in Exclude<keyof RankErrors, `$${string}`>]: RankErrors[K] extends number[]
    ? ArrayLike<number>
    : RankErrors[K];
};

/** What a step's micro-batches say of it. */
export type StepMetrics = Omit<
  StepNumbers,
  'step' | 'gradNorm' | 'learningRate' | 'beta' | 'seconds'
>;

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

/** Means of what there is by pair, sums of what are parts of the step's. */
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

/** Share of pairs with a positive logit; 0 where there are no pairs. */
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
