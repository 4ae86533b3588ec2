import { expect, it } from 'vitest';
import { stagesOf, type RunPlan } from './plan.js';
import { imageSeed } from './seeds.js';
import { shardItems, shardSize } from './shards.js';

const plan: RunPlan = {
  runId: 'r1',
  seed: 3,
  iterations: 2,
  sft: true,
  rows: 10,
  imagesPerPrompt: 2,
  evaluationPrompts: 5,
  evaluationSeed: 9,
  metrics: [],
  stop: null,
  sharedDevice: true,
  encodeShardSize: 4,
  sampleShardSize: 4,
  trainSteps: 1,
  sftSteps: 1,
  maxMissing: 0,
};

const items = (p: RunPlan, name: string): { index: number; seed: bigint }[] => {
  const stage = stagesOf(p).find((s) => s.name === name)!;
  return Array.from({ length: stage.shards }, (_, shard) =>
    shardItems(p, stage, shard, new Set()),
  ).flat();
};

it('keeps seeds fixed for ever: these values are part of the contract', () => {
  expect([imageSeed(0, 'evaluate', 0), imageSeed(0, 'evaluate', 1), imageSeed(1, 'sample-1', 0, 1)])
    .toMatchInlineSnapshot(`
    [
      1393539429n,
      3264648763n,
      3372440539n,
    ]
  `);
});

it('gives an image the same seed however the work is cut into shards', () => {
  expect(items({ ...plan, sampleShardSize: 3 }, 'sample-base')).toEqual(items(plan, 'sample-base'));
});

it('draws several images of a held-out prompt side by side, the first one as if it were alone', () => {
  const base = stagesOf(plan).find((stage) => stage.name === 'eval-sample-base')!;
  const three = { ...plan, evaluationImages: 3 };
  const stage = stagesOf(three).find(({ name }) => name === 'eval-sample-base')!;
  const items = (p: typeof plan, s: typeof stage) =>
    Array.from({ length: s.shards }, (_, shard) => shardItems(p, s, shard, new Set())).flat();
  const all = items(three, stage);
  expect(stage.items).toBe(3 * plan.evaluationPrompts);
  expect(all.map(({ index }) => index)).toEqual(
    Array.from({ length: 3 * plan.evaluationPrompts }, (_, i) => Math.floor(i / 3)),
  );
  expect(all.filter((_, i) => i % 3 === 0)).toEqual(items(plan, base));
  expect(new Set(all.map(({ seed }) => seed)).size).toBe(all.length);
});

it('evaluates every model from the same noise', () => {
  expect(items(plan, 'eval-sample-spin2')).toEqual(items(plan, 'eval-sample-base'));
  expect(items(plan, 'eval-sample-sft')).toEqual(items(plan, 'eval-sample-base'));
});

it('draws other noise in every iteration, for every copy and for every run seed', () => {
  const seeds = [
    ...items(plan, 'sample-base'),
    ...items(plan, 'sample-spin1'),
    ...items({ ...plan, seed: 4 }, 'sample-base'),
  ].map((item) => item.seed);
  expect(new Set(seeds).size).toBe(seeds.length);
});

it('leaves rejected rows out without moving the others', () => {
  const stage = stagesOf(plan).find((s) => s.name === 'sample-base')!;
  const all = shardItems(plan, stage, 1, new Set());
  expect(shardItems(plan, stage, 1, new Set([5]))).toEqual(all.filter((item) => item.index !== 5));
  expect(shardSize(plan, stage, 1, new Set([5]))).toBe(6);
});
