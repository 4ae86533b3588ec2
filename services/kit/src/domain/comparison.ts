/**
 * What a comparison of two models by one judge says, and what several of them in one report say
 * together.
 */

/** By the interval and the corrected test together, at 5 %. */
export type Verdict = 'better' | 'worse' | 'undecided';

/** How one set of scores compares with another over the same prompts and seeds. */
export interface Against {
  /** Mean difference, and its bootstrap 95 % interval. */
  difference: number;
  differenceLow: number;
  differenceHigh: number;
  /**
   * Share of images that beat the other's of the same prompt and seed; ties count one half. With
   * its interval.
   */
  winRate: number;
  winRateLow: number;
  winRateHigh: number;
  /** The same with ties counted as lost. */
  winRateTiesLose: number;
  /**
   * Two-sided paired randomisation test of the mean difference: signs of prompts' differences at
   * random.
   */
  pValue: number;
  /**
   * The same with Holm's correction for the comparisons that are shown together; of one alone, the
   * p-value.
   */
  pCorrected: number;
  verdict: Verdict;
}

const level = 0.05;

export function verdictOf({
  differenceLow,
  differenceHigh,
  pCorrected,
}: Omit<Against, 'verdict'>): Verdict {
  if (pCorrected >= level) return 'undecided';
  if (differenceLow > 0) return 'better';
  return differenceHigh < 0 ? 'worse' : 'undecided';
}

/**
 * Holm (1979): the k-th smallest of m p-values times m - k + 1, never below a smaller one's nor
 * above 1. Calling those under 5 % significant errs in one of them or more with at most 5 %,
 * however they depend on each other. In the order given.
 */
export function holm(pValues: readonly number[]): number[] {
  const order = pValues.map((p, i) => [p, i] as const).sort(([a], [b]) => a - b);
  const corrected = pValues.map(() => 1);
  let least = 0;
  for (const [rank, [p, i]] of order.entries()) {
    least = Math.max(least, Math.min(1, p * (pValues.length - rank)));
    corrected[i] = least;
  }
  return corrected;
}

/** Corrects the p-values of comparisons that are read together, in place, and judges anew. */
export function correctTogether(family: readonly Against[]): void {
  const corrected = holm(family.map(({ pValue }) => pValue));
  for (const [i, one] of family.entries()) {
    one.pCorrected = corrected[i] ?? 1;
    one.verdict = verdictOf(one);
  }
}

/** "better (p = 0.002, corrected 0.008)", "not told apart (p = 0.31)". */
export function verdictText({
  verdict,
  pValue,
  pCorrected,
}: Pick<Against, 'verdict' | 'pValue' | 'pCorrected'>): string {
  const corrected =
    pCorrected === pValue ? '' : `, corrected ${pText(pCorrected).replace(/^= /, '')}`;
  return `${verdict === 'undecided' ? 'not told apart' : verdict} (p ${pText(pValue)}${corrected})`;
}

function pText(p: number): string {
  return p < 0.001 ? '< 0.001' : `= ${p.toPrecision(2)}`;
}
