import { expect, it } from 'vitest';
import { chooseInSets, setsOf } from './sets.js';

/** Two prompts of set a, one of b, one of none; two images each. */
const scores = (base: number) =>
  ['a', 'a', 'b', ''].flatMap((set, prompt) =>
    [0n, 1n].map((seed) => ({ prompt, seed, set, value: base + prompt + Number(seed) / 2 })),
  );

it('chooses within each named set, and passes over prompts without one', () => {
  const models = [
    { name: 'base', scores: new Map([['pick', scores(0)]]) },
    { name: 'spin1', scores: new Map([['pick', scores(10)]]) },
  ];
  expect(setsOf(scores(0))).toEqual(['a', 'b']);
  const chosen = chooseInSets(models, []);
  expect(chosen.map(({ set, chosen: of }) => [set, of.n])).toEqual([
    ['a', 2],
    ['b', 1],
  ]);
  // The better image of each prompt: 0.5 and 1.5; 2.5.
  expect(chosen.map(({ chosen: of }) => of.tables[0]?.models.map(({ mean }) => mean))).toEqual([
    [1, 11],
    [2.5, 12.5],
  ]);
  expect(chooseInSets([{ name: 'base', scores: new Map() }], [])).toEqual([]);
});
