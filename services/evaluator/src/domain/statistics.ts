/** What is said of a model's scores by one judge. Numbers come from @spindle/kit's statistics. */
export type Verdict = 'better' | 'worse' | 'undecided';

export interface Against {
  difference: number;
  differenceLow: number;
  differenceHigh: number;
  winRate: number;
  winRateLow: number;
  winRateHigh: number;
  winRateTiesLose: number;
  pValue: number;
  verdict: Verdict;
}

export interface Statistics extends Against {
  mean: number;
  meanLow: number;
  meanHigh: number;
  median: number;
  standardError: number;
  /** Prompts, and images. */
  n: number;
  images: number;
  /** Where a prompt has several images: the best of them, and that against the base's best. */
  bestOf: (Against & { images: number; mean: number }) | null;
}

/** A judge, as the scorer described it. */
export interface Judge {
  kind: string;
  files: { name: string; digest: string }[];
  variant: string;
  scale: string;
  preprocess: string;
}

/** Of the model with the best mean by the first judge, against every other model. */
export interface BestAgainst extends Against {
  metric: string;
  best: string;
  model: string;
}

/** "better (p = 0.002)", "not told apart (p = 0.31)". */
export function verdictText({ verdict, pValue }: Pick<Against, 'verdict' | 'pValue'>): string {
  const p = pValue < 0.001 ? 'p < 0.001' : `p = ${pValue.toPrecision(2)}`;
  return `${verdict === 'undecided' ? 'not told apart' : verdict} (${p})`;
}
