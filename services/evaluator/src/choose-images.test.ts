import { expect, it } from 'vitest';
import { chooseImages, type ScoredModel } from './choose-images.js';
import { winOver } from './domain/chosen.js';

/** Rows are prompts, with one value per seed. */
function model(name: string, judges: Record<string, number[][]>): ScoredModel {
  return {
    name,
    scores: new Map(
      Object.entries(judges).map(([metric, prompts]) => [
        metric,
        prompts.flatMap((values, prompt) =>
          values.map((value, seed) => ({ prompt, seed: BigInt(seed), value })),
        ),
      ]),
    ),
  };
}

const near = (value: number): unknown => expect.closeTo(value, 12);

const base = model('base', {
  pick: [
    [20, 21],
    [22, 19],
    [18, 18],
    [25, 20],
  ],
  reward: [
    [1, -1],
    [-2, 3],
    [0.5, 0.25],
    [0, 1],
  ],
});
const spin = model('spin1', {
  pick: [
    [21, 20],
    [23, 23],
    [17, 18],
    [24, 26],
  ],
  reward: [
    [0.5, 0],
    [-2.5, 0],
    [2, 0],
    [1, -2],
  ],
});

it('takes the image of the highest average for every judge, not the best of each judge', () => {
  // Chosen of base: seeds 0, 1 (22 of 22 against 20), 0, 0; of spin1: 0, 1, 0, 0.
  const chosen = chooseImages([base, spin]);
  expect(chosen).toMatchObject({ n: 4, imagesPerPrompt: 2 });
  const of = (metric: string | null) =>
    chosen?.tables.find((table) => table.metric === metric)?.models ?? [];
  expect(chosen?.tables.map(({ metric }) => metric)).toEqual(['pick', 'reward', null]);
  // Worked out apart from this code, with Python's statistics module.
  expect(of('pick')).toMatchObject([
    { mean: 20.5, median: 19.5, standardError: near(1.5545631755148026) },
    { mean: 21.25, median: 22, standardError: near(1.547847968417226) },
  ]);
  expect(of('reward')).toMatchObject([
    { mean: 1.125, median: 0.75, standardError: near(0.6574889099191459) },
    { mean: 0.875, median: 0.75, standardError: near(0.42695628191498325) },
  ]);
  expect(of(null)).toMatchObject([
    { mean: 10.8125, median: 10.75, standardError: near(0.6721777418709033) },
    { mean: 11.0625, median: 11.125, standardError: near(0.6322496210622299) },
  ]);
});

it('has win rates by prompt, ties one half, both ways', () => {
  const average = chooseImages([base, spin])?.tables[2];
  expect(average && winOver(average, 'spin1', 'base')?.winRate).toBe(0.875);
  expect(average && winOver(average, 'base', 'spin1')?.winRate).toBe(0.125);
  expect(average && winOver(average, 'base', 'base')).toBeNull();
});

it('chooses only among images that all models have, and leaves out models without a judge', () => {
  const lost = model('lost', { pick: [[9, 9]], reward: [[2, 1]] });
  const chosen = chooseImages([base, lost, model('half', { pick: [[30, 30]] })]);
  expect(chosen).toMatchObject({ n: 1, imagesPerPrompt: 2 });
  expect(chosen?.tables[0]?.models.map(({ model, mean }) => [model, mean])).toEqual([
    ['base', 20],
    ['lost', 9],
  ]);
  expect(chooseImages([])).toBeNull();
});

it('has no average of a single judge', () => {
  const one = chooseImages([model('base', { pick: [[1], [2]] })]);
  expect(one?.tables.map(({ metric }) => metric)).toEqual(['pick']);
});

it('chooses by the average of the judges that are named, and tells of all', () => {
  const chosen = chooseImages([base, spin], ['pick']);
  expect(chosen?.averaged).toEqual(['pick']);
  expect(chosen?.tables.map(({ metric }) => metric)).toEqual(['pick', 'reward']);
  // The highest of pick: seeds 1, 0, 0, 0 of base; the reward is that image's.
  expect(chosen?.tables[0]?.models[0]?.mean).toBe((21 + 22 + 18 + 25) / 4);
  expect(chosen?.tables[1]?.models[0]?.mean).toBe((-1 - 2 + 0.5 + 0) / 4);
});
