/** Statistics of scores, paired with the base by prompt and seed. Pure, and seeded where random: the same scores give the same numbers. */
export interface Scored {
  /** Position in the prompt list. */
  prompt: number;
  seed: bigint;
  value: number;
}

export interface Statistics {
  mean: number;
  median: number;
  standardError: number;
  winRate: number;
  differenceLow: number;
  differenceHigh: number;
  /** Prompts. */
  n: number;
}

const resamples = 2000;
const bootstrapSeed = 20_240_210;

/**
 * `base` null: these are the base's own scores. Images that the base lost (a job given up) count for the model's own numbers and not
 * for the comparison. Throws Error when no prompt and seed is left to compare.
 */
export function statistics(scores: readonly Scored[], base: readonly Scored[] | null): Statistics {
  const values = [...byPrompt(scores, (score) => score.value).values()];
  const own = { mean: mean(values), median: median(values), standardError: standardError(values), n: values.length };
  if (base === null) return { ...own, winRate: 0.5, differenceLow: 0, differenceHigh: 0 };
  const other = new Map(base.map((score) => [pairKey(score), score.value]));
  const paired = scores.filter((score) => other.has(pairKey(score)));
  if (paired.length === 0) throw new Error('expected a prompt and seed that the base was judged on too, got none');
  const opposite = (score: Scored): number => other.get(pairKey(score)) ?? Number.NaN;
  const wins = [...byPrompt(paired, (score) => win(score.value, opposite(score))).values()];
  const differences = [...byPrompt(paired, (score) => score.value - opposite(score)).values()];
  const [differenceLow, differenceHigh] = bootstrapInterval(differences);
  return { ...own, winRate: mean(wins), differenceLow, differenceHigh };
}

/** Mean of `of` over the seeds of each prompt, in the order in which prompts first occur. */
function byPrompt(scores: readonly Scored[], of: (score: Scored) => number): Map<number, number> {
  const groups = new Map<number, number[]>();
  for (const score of scores) groups.set(score.prompt, [...(groups.get(score.prompt) ?? []), of(score)]);
  return new Map([...groups].map(([prompt, values]) => [prompt, mean(values)]));
}

function pairKey(score: Scored): string {
  return `${score.prompt}/${score.seed}`;
}

function win(value: number, base: number): number {
  if (value === base) return 0.5;
  return value > base ? 1 : 0;
}

export function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((total, value) => total + value, 0) / values.length;
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return 0;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2;
}

/** Of the mean; the sample's variance has n - 1 below. */
export function standardError(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const centre = mean(values);
  const variance = values.reduce((total, value) => total + (value - centre) ** 2, 0) / (values.length - 1);
  return Math.sqrt(variance / values.length);
}

/** 95 % percentile interval of the mean. */
export function bootstrapInterval(values: readonly number[]): [number, number] {
  if (values.length === 0) return [0, 0];
  const random = splitMix(bootstrapSeed);
  const means = Array.from({ length: resamples }, () => {
    let total = 0;
    for (let i = 0; i < values.length; i++) total += values[Math.floor(random() * values.length)] ?? 0;
    return total / values.length;
  }).sort((a, b) => a - b);
  return [quantile(means, 0.025), quantile(means, 0.975)];
}

function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? 0;
  const high = sorted[Math.ceil(at)] ?? low;
  return low + (high - low) * (at - Math.floor(at));
}

/** SplitMix32: small, and good enough to pick indices. */
function splitMix(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 4_294_967_296;
  };
}
