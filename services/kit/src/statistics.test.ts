import { describe, expect, it } from 'vitest';
import { bootstrapInterval, mean, median, standardError, statistics, type Scored } from './statistics.js';

const scores = (values: number[], seed = 1n): Scored[] => values.map((value, prompt) => ({ prompt, seed, value }));

describe('statistics', () => {
  it('of a sample are the textbook ones', () => {
    expect(mean([1, 2, 3, 6])).toBe(3);
    expect(median([6, 1, 3, 2])).toBe(2.5);
    expect(median([3, 1, 2])).toBe(2);
    expect(standardError([1, 2, 3, 6])).toBeCloseTo(Math.sqrt(14 / 3 / 4), 12);
    expect(standardError([5])).toBe(0);
  });

  it('of the base against itself are level', () => {
    expect(statistics(scores([1, 2, 3]), null)).toEqual({
      mean: 2,
      median: 2,
      standardError: expect.closeTo(Math.sqrt(1 / 3)) as number,
      winRate: 0.5,
      differenceLow: 0,
      differenceHigh: 0,
      n: 3,
    });
  });

  it('count a tie as half a win', () => {
    expect(statistics(scores([2, 2, 1, 5]), scores([1, 2, 3, 4])).winRate).toBe(0.625);
  });

  it('pair by prompt and seed, whatever the order', () => {
    const model = scores([10, 20, 30]);
    expect(statistics([...model].reverse(), scores([9, 19, 29]))).toMatchObject({ winRate: 1, differenceLow: 1, differenceHigh: 1 });
  });

  it('average over the seeds of a prompt first', () => {
    const model = [...scores([1, 3], 1n), ...scores([3, 5], 2n)];
    const base = [...scores([0, 4], 1n), ...scores([4, 4], 2n)];
    expect(statistics(model, base)).toMatchObject({ mean: 3, n: 2, winRate: 0.5 });
  });

  it('compare what the base was judged on too, and count the rest for the model alone', () => {
    expect(statistics(scores([2, 4]), scores([1]))).toMatchObject({ mean: 3, n: 2, winRate: 1, differenceLow: 1, differenceHigh: 1 });
  });

  it('refuse to compare with a base that was judged on none of it', () => {
    expect(() => statistics(scores([1], 1n), scores([1], 2n))).toThrow(
      'expected a prompt and seed that the base was judged on too, got none',
    );
  });

  it('give the same interval every time, around the mean difference', () => {
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
