import { describe, expect, it } from 'vitest';
import { correctTogether, holm, verdictText } from './domain/comparison.js';
import {
  best,
  bootstrapInterval,
  compare,
  levelWithItself,
  mean,
  median,
  signTest,
  standardError,
  summarise,
  type Scored,
} from './statistics.js';

const scores = (values: number[], seed = 1n): Scored[] =>
  values.map((value, prompt) => ({ prompt, seed, value }));

describe('statistics', () => {
  it('of a sample are the textbook ones', () => {
    expect(mean([1, 2, 3, 6])).toBe(3);
    expect(median([6, 1, 3, 2])).toBe(2.5);
    expect(median([3, 1, 2])).toBe(2);
    expect(standardError([1, 2, 3, 6])).toBeCloseTo(Math.sqrt(14 / 3 / 4), 12);
    expect(standardError([5])).toBe(0);
  });

  it('of one model count prompts, not images, and say the best of a prompt', () => {
    const two = [...scores([1, 3], 1n), ...scores([3, 5], 2n)];
    expect(summarise(two)).toMatchObject({
      mean: 3,
      median: 3,
      bestMean: 4,
      imagesPerPrompt: 2,
      n: 2,
      images: 4,
    });
    expect(summarise(scores([2, 2, 2]))).toMatchObject({
      meanLow: 2,
      meanHigh: 2,
      standardError: 0,
      bestMean: 2,
      imagesPerPrompt: 1,
    });
  });

  it('give the same interval every time, around the mean', () => {
    const differences = Array.from({ length: 200 }, (_, i) => Math.sin(i) + 0.5);
    const [low, high] = bootstrapInterval(differences);
    expect(bootstrapInterval(differences)).toEqual([low, high]);
    expect(low).toBeLessThan(mean(differences));
    expect(high).toBeGreaterThan(mean(differences));
    // A normal interval is 1.96 standard errors to each side.
    expect((high - low) / (2 * 1.96 * standardError(differences))).toBeCloseTo(1, 1);
    expect(bootstrapInterval([])).toEqual([0, 0]);
  });
});

describe('a comparison', () => {
  it('counts a tie as half a win, or as lost', () => {
    const result = compare(scores([2, 2, 1, 5]), scores([1, 2, 3, 4]));
    expect(result).toMatchObject({ winRate: 0.625, winRateTiesLose: 0.5, n: 4 });
    expect(levelWithItself(4)).toMatchObject({
      winRate: 0.5,
      winRateTiesLose: 0,
      pValue: 1,
      verdict: 'undecided',
    });
    expect(compare(scores([1, 2]), scores([1, 2]))).toEqual(levelWithItself(2));
  });

  it('pairs by prompt and seed, whatever the order', () => {
    const model = scores([10, 20, 30]);
    expect(compare([...model].reverse(), scores([9, 19, 29]))).toMatchObject({
      winRate: 1,
      difference: 1,
      differenceLow: 1,
      differenceHigh: 1,
    });
  });

  it('averages over the seeds of a prompt first, or takes the best of them', () => {
    const model = [...scores([1, 3], 1n), ...scores([3, 9], 2n)];
    const base = [...scores([0, 4], 1n), ...scores([4, 4], 2n)];
    expect(compare(model, base)).toMatchObject({ n: 2, winRate: 0.5, difference: 1 });
    expect(compare(model, base, best)).toMatchObject({ n: 2, winRate: 0.5, difference: 2 });
  });

  it('leaves out what only one side was judged on, and refuses when nothing is left', () => {
    expect(compare(scores([2, 4]), scores([1]))).toMatchObject({ n: 1, winRate: 1, difference: 1 });
    expect(() => compare(scores([1], 1n), scores([1], 2n))).toThrow(
      'expected a prompt and seed that the base was judged on too, got none',
    );
  });

  it('calls a model better or worse only where the interval and the test both say so', () => {
    const base = scores(Array.from({ length: 40 }, (_, i) => Math.sin(i)));
    const moved = (by: (i: number) => number) =>
      base.map((score, i) => ({ ...score, value: score.value + by(i) }));
    expect(
      compare(
        moved(() => 0.1),
        base,
      ),
    ).toMatchObject({ verdict: 'better' });
    expect(
      compare(
        moved((i) => -0.1 + (i % 3) / 100),
        base,
      ),
    ).toMatchObject({ verdict: 'worse' });
    expect(
      compare(
        moved((i) => (i % 2 === 0 ? 1 : -1)),
        base,
      ),
    ).toMatchObject({ verdict: 'undecided', difference: expect.closeTo(0) as number });
    // Three prompts cannot be significant at 5 %, however clear: 2 of 8 patterns are as extreme.
    expect(compare(scores([2, 3, 4]), scores([1, 1, 1]))).toMatchObject({
      pValue: 0.25,
      verdict: 'undecided',
      differenceLow: expect.any(Number) as number,
    });
  });
});

describe('several comparisons together', () => {
  it("are corrected by Holm's steps, in the order given", () => {
    // Holm (1979), example in every textbook: 0.01, 0.04, 0.03, 0.005 of four tests.
    expect(holm([0.01, 0.04, 0.03, 0.005]).map((p) => Number(p.toFixed(12)))).toEqual([
      0.03, 0.06, 0.06, 0.02,
    ]);
    expect(holm([0.5, 0.9])).toEqual([1, 1]);
    expect(holm([0.02])).toEqual([0.02]);
    expect(holm([])).toEqual([]);
  });

  it('lose their verdict where one alone would have had it', () => {
    // Six prompts, all better: 2 of 64 patterns are as extreme.
    const one = () => compare(scores([2, 3, 4, 5, 6, 7]), scores([1, 1, 1, 1, 1, 1]));
    const alone = one();
    expect(alone).toMatchObject({ pValue: 1 / 32, pCorrected: 1 / 32, verdict: 'better' });
    const [first, second] = [one(), one()];
    correctTogether([first, second]);
    expect(first).toMatchObject({ pValue: 1 / 32, pCorrected: 1 / 16, verdict: 'undecided' });
    expect([verdictText(alone), verdictText(second)]).toEqual([
      'better (p = 0.031)',
      'not told apart (p = 0.031, corrected 0.063)',
    ]);
  });
});

describe('the randomisation test', () => {
  it('is exact for few values', () => {
    // Sums of ±1 ±2 ±3: only all plus and all minus reach 6.
    expect(signTest([1, 2, 3])).toBe(2 / 8);
    expect(signTest([1, 2, -3])).toBe(1);
    expect(signTest([0, 0])).toBe(1);
    expect(signTest([0, 1, 2, 3])).toBe(2 / 8);
  });

  it('agrees with a normal law for many values, and is the same every time', () => {
    // z = mean / (root mean square / √n) = 2: two-sided 0.0455.
    const n = 400;
    const values = Array.from({ length: n }, (_, i) => (i % 2 === 0 ? 1 : -1) + 0.1);
    const p = signTest(values);
    expect(Math.abs(p - 0.0466)).toBeLessThan(0.012);
    expect(signTest(values)).toBe(p);
    expect(signTest(values.map((value) => -value))).toBe(p);
  });
});
