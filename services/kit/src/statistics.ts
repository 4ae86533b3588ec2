/**
 * Statistics of scores, paired by prompt and seed. Pure, and seeded where random: the same scores
 * give the same numbers. A prompt is the unit: with several images of one, their mean counts once,
 * so that intervals speak of new prompts.
 */
import { verdictOf, type Against } from './domain/comparison.js';

/** One image's score by one judge. */
export interface Scored {
  /** Position in the prompt list. */
  prompt: number;
  seed: bigint;
  value: number;
}

/** One model against another, prompt by prompt. */
export interface Comparison extends Against {
  /** Prompts that both were judged on. */
  n: number;
}

/** What is told of one model's scores. */
export interface Summary {
  mean: number;
  /** Bootstrap 95 % interval of the mean over prompts. */
  meanLow: number;
  meanHigh: number;
  median: number;
  standardError: number;
  /** Mean over prompts of the best of a prompt's images. */
  bestMean: number;
  /** Images per prompt, the largest there is. */
  imagesPerPrompt: number;
  /** Prompts, and images. */
  n: number;
  images: number;
}

const resamples = 2000;
const signDraws = 4999;
const exactSigns = 12;
const seed = 20_240_210;

/** Mean, median, standard error and intervals over prompts; a prompt's seeds count once. */
export function summarise(scores: readonly Scored[]): Summary {
  const means = [...byPrompt(scores, mean).values()];
  const best = [...byPrompt(scores, (values) => Math.max(...values)).values()];
  const [meanLow, meanHigh] = bootstrapInterval(means);
  return {
    mean: mean(means),
    meanLow,
    meanHigh,
    median: median(means),
    standardError: standardError(means),
    bestMean: mean(best),
    imagesPerPrompt: Math.max(0, ...byPrompt(scores, (values) => values.length).values()),
    n: means.length,
    images: scores.length,
  };
}

/**
 * Images that either side lost (a job given up) are left out. `of` takes a prompt's values on one
 * side to the one that is compared: their mean, or e.g. the best. Throws Error when no prompt and
 * seed is left to compare.
 */
export function compare(
  scores: readonly Scored[],
  others: readonly Scored[],
  of: (values: readonly number[]) => number = mean,
): Comparison {
  const other = new Map(others.map((score) => [pairKey(score), score]));
  const pairs = scores.flatMap((own) => {
    const against = other.get(pairKey(own));
    return against === undefined ? [] : [{ own, against }];
  });
  if (pairs.length === 0)
    throw new Error('expected a prompt and seed that the base was judged on too, got none');
  const own = byPrompt(
    pairs.map((pair) => pair.own),
    of,
  );
  const against = byPrompt(
    pairs.map((pair) => pair.against),
    of,
  );
  const differences = [...own].map(
    ([prompt, value]) => value - (against.get(prompt) ?? Number.NaN),
  );
  const shares = (tie: number): number[] =>
    of === mean
      ? [
          ...byPrompt(
            pairs.map(({ own, against }) => ({
              ...own,
              value: win(own.value, against.value, tie),
            })),
            mean,
          ).values(),
        ]
      : [...own].map(([prompt, value]) => win(value, against.get(prompt) ?? Number.NaN, tie));
  const wins = shares(0.5);
  const [differenceLow, differenceHigh] = bootstrapInterval(differences);
  const [winRateLow, winRateHigh] = bootstrapInterval(wins);
  const pValue = signTest(differences);
  const result = {
    difference: mean(differences),
    differenceLow,
    differenceHigh,
    winRate: mean(wins),
    winRateLow,
    winRateHigh,
    winRateTiesLose: mean(shares(0)),
    pValue,
    pCorrected: pValue,
  };
  return { ...result, verdict: verdictOf(result), n: differences.length };
}

/** A model against itself. */
export function levelWithItself(n: number): Comparison {
  return {
    difference: 0,
    differenceLow: 0,
    differenceHigh: 0,
    winRate: 0.5,
    winRateLow: 0.5,
    winRateHigh: 0.5,
    winRateTiesLose: 0,
    pValue: 1,
    pCorrected: 1,
    verdict: 'undecided',
    n,
  };
}

/** The best of several scores: larger is better. */
export function best(values: readonly number[]): number {
  return Math.max(...values);
}

/** `of` of the values of each prompt, in the order in which prompts first occur. */
function byPrompt(
  scores: readonly Scored[],
  of: (values: readonly number[]) => number,
): Map<number, number> {
  const groups = new Map<number, number[]>();
  for (const { prompt, value } of scores) {
    const group = groups.get(prompt);
    if (group === undefined) groups.set(prompt, [value]);
    else group.push(value);
  }
  return new Map([...groups].map(([prompt, values]) => [prompt, of(values)]));
}

function pairKey(score: Scored): string {
  return `${score.prompt}/${score.seed}`;
}

function win(value: number, other: number, tie: number): number {
  if (value === other) return tie;
  return value > other ? 1 : 0;
}

/** Arithmetic; 0 of nothing. */
export function mean(values: readonly number[]): number {
  return values.length === 0
    ? 0
    : values.reduce((total, value) => total + value, 0) / values.length;
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
  const variance =
    values.reduce((total, value) => total + (value - centre) ** 2, 0) / (values.length - 1);
  return Math.sqrt(variance / values.length);
}

/** 95 % percentile interval of the mean. */
export function bootstrapInterval(values: readonly number[]): [number, number] {
  if (values.length === 0) return [0, 0];
  const random = splitMix(seed);
  const sample = Float64Array.from(values);
  const means = Array.from({ length: resamples }, () => {
    let total = 0;
    for (let i = 0; i < sample.length; i++)
      total += sample[Math.floor(random() * sample.length)] ?? 0;
    return total / sample.length;
  }).sort((a, b) => a - b);
  return [quantile(means, 0.025), quantile(means, 0.975)];
}

/**
 * Paired randomisation test: were both sides alike, each difference could as well have had the
 * other sign. Share of sign patterns whose mean is at least as far from 0 as what was seen: all of
 * them for few values, else drawn, the seen one counted among them.
 */
export function signTest(differences: readonly number[]): number {
  const values = differences.filter((value) => value !== 0);
  if (values.length === 0) return 1;
  // Sums of the same numbers in another order differ in their last bits.
  const seen = Math.abs(values.reduce((total, value) => total + value, 0)) * (1 - 1e-12);
  if (values.length <= exactSigns) {
    let extreme = 0;
    for (let signs = 0; signs < 2 ** values.length; signs++) {
      const total = values.reduce((sum, value, i) => sum + ((signs >> i) & 1 ? value : -value), 0);
      if (Math.abs(total) >= seen) extreme++;
    }
    return extreme / 2 ** values.length;
  }
  const random = splitMixBits(seed);
  const sample = Float64Array.from(values);
  let extreme = 1;
  for (let draw = 0; draw < signDraws; draw++) {
    let total = 0;
    let bits = 0;
    for (let i = 0; i < sample.length; i++) {
      if (i % 32 === 0) bits = random();
      total += bits & 1 ? (sample[i] ?? 0) : -(sample[i] ?? 0);
      bits >>>= 1;
    }
    if (Math.abs(total) >= seen) extreme++;
  }
  return extreme / (signDraws + 1);
}

function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? 0;
  const high = sorted[Math.ceil(at)] ?? low;
  return low + (high - low) * (at - Math.floor(at));
}

/** SplitMix32: small, and good enough to pick indices and signs. */
function splitMixBits(start: number): () => number {
  let state = start >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
}

function splitMix(start: number): () => number {
  const bits = splitMixBits(start);
  return () => bits() / 4_294_967_296;
}
