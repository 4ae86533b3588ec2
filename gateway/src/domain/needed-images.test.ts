import { epochOrder } from '@spindle/kit/domain';
import { describe, expect, it } from 'vitest';
import { neededCount, neededImages, type NeededImage, type Reading } from './needed-images.js';
import { stagesOf, type RunPlan } from './plan.js';
import { imageSeed } from './seeds.js';
import { shardItems, shardSize } from './shards.js';

const key = { seed: 5n, iteration: 2 };

/**
 * What the trainer reads from position `first` on where a position has an image of its own while
 * there are such: it names an image by how often the row was read since.
 */
function readFrom({ positions, copies, first = 0 }: Reading, count: number): NeededImage[] {
  const times = new Map<number, number>();
  const images: NeededImage[] = [];
  for (let position = first; position < first + positions; position++) {
    if (images.length === count * copies) break;
    const element = epochOrder(key, Math.floor(position / count), count)[position % count]!;
    const copy = times.get(element) ?? 0;
    times.set(element, copy + 1);
    images.push({ element, copy });
  }
  return images;
}

/** What the trainer reads, one position after the other, each image where it is read first. */
function read({ positions, copies, views }: Reading, count: number): NeededImage[] {
  const seen = new Map<string, NeededImage>();
  for (let position = 0; position < positions; position++) {
    const epoch = Math.floor(position / count);
    const element = epochOrder(key, epoch, count)[position % count]!;
    const turns = views > 1 ? Array.from({ length: copies }, (_, copy) => copy) : [epoch % copies];
    for (const copy of turns)
      seen.set(`${element} ${copy}`, seen.get(`${element} ${copy}`) ?? { element, copy });
  }
  return [...seen.values()];
}

describe('images that training reads', () => {
  it.each([
    { positions: 4, copies: 1, views: 1 },
    { positions: 7, copies: 1, views: 1 },
    { positions: 30, copies: 1, views: 1 },
    { positions: 4, copies: 3, views: 1 },
    { positions: 17, copies: 3, views: 1 },
    { positions: 60, copies: 3, views: 1 },
    { positions: 4, copies: 2, views: 2 },
    { positions: 40, copies: 2, views: 3 },
  ])('are those of every position, in order: %j', (sizes) => {
    const reading = { key, ...sizes };
    const wanted = read(reading, 7);
    expect(neededCount(reading, 7)).toBe(wanted.length);
    expect(neededImages(reading, 7, 0, 1000)).toEqual(wanted);
    expect(neededImages(reading, 7, 2, 4)).toEqual(wanted.slice(2, 4));
  });
});

describe('images that a later part of an iteration reads', () => {
  it.each([
    { positions: 4, copies: 1, first: 0 },
    { positions: 4, copies: 1, first: 2 },
    { positions: 5, copies: 1, first: 5 },
    { positions: 6, copies: 2, first: 14 },
    { positions: 13, copies: 2, first: 10 },
    { positions: 40, copies: 3, first: 9 },
  ])('have a turn of their own for each time that their row is read: %j', (sizes) => {
    const reading = { key, views: 1, ...sizes };
    const images = neededImages(reading, 7, 0, 1000);
    expect(images).toEqual(readFrom(reading, 7));
    expect(neededCount(reading, 7)).toBe(images.length);
    // Turns go by epoch: while there are new images, each is read once.
    const drawn = new Map<number, number>();
    for (const { element } of images) drawn.set(element, (drawn.get(element) ?? 0) + 1);
    const turns = images.map(({ element }, n) => {
      const epoch = Math.floor((sizes.first + n) / 7);
      return `${element} ${epoch % drawn.get(element)!}`;
    });
    expect(new Set(turns).size).toBe(images.length);
  });

  it('are drawn together with several views', () => {
    const reading = { key, copies: 2, views: 3, positions: 4, first: 5 };
    const rows = [5, 6, 7, 8].map((p) => epochOrder(key, Math.floor(p / 7), 7)[p % 7]!);
    const images = neededImages(reading, 7, 0, 1000);
    expect(images.map(({ element }) => element)).toEqual(rows.flatMap((row) => [row, row]));
    const names = images.map(({ element, copy }) => `${element} ${copy}`);
    expect(new Set(names).size).toBe(8);
  });
});

const plan: RunPlan = {
  ...{ runId: 'r', seed: 5, iterations: 2, sft: false, rows: 12, imagesPerPrompt: 1 },
  ...{ evaluationPrompts: 0, evaluationSeed: 0, metrics: [], stop: null, sharedDevice: true },
  ...{ encodeShardSize: 4, sampleShardSize: 2, trainSteps: [1, 9], sftSteps: 0, maxMissing: 0 },
  asRead: { batchSize: 5, views: 1 },
};

describe('a stage that draws what is read', () => {
  const stageOf = (name: string) => stagesOf(plan).find((stage) => stage.name === name)!;

  it('has as many images as training reads, in as many jobs as they fill', () => {
    expect(stageOf('sample-base')).toMatchObject({ items: 5, shards: 3 });
    expect(stageOf('sample-spin1')).toMatchObject({ items: 12, shards: 6 });
  });

  it.each([[[]], [[0]], [[3, 4, 11]], [[0, 1, 2, 3, 4, 5, 6, 7]]])(
    'draws encoded rows alone, with the seeds that they always have (rejected: %j)',
    (rejected) => {
      const without = new Set(rejected);
      const encoded = Array.from({ length: 12 }, (_, row) => row).filter(
        (row) => !without.has(row),
      );
      const stage = stageOf('sample-base');
      const items = Array.from({ length: stage.shards }, (_, shard) => {
        const own = shardItems(plan, stage, shard, without);
        expect(shardSize(plan, stage, shard, without)).toBe(own.length);
        return own;
      }).flat();
      const order = epochOrder({ seed: 5n, iteration: 1 }, 0, encoded.length);
      const rows = [...order].slice(0, 5).map((element) => encoded[element]);
      expect(items.map(({ index }) => index)).toEqual(rows);
      for (const { index, seed } of items) expect(seed).toBe(imageSeed(5, 'sample-1', index));
    },
  );
});

it('draws for each part of an iteration what its steps read, with seeds of its own', () => {
  const parted = { ...plan, trainSteps: [3, 2], refreshSteps: 2, rows: 40, encodeShardSize: 40 };
  const stages = stagesOf(parted).filter(({ kind }) => kind === 'sample');
  expect(stages.map(({ name, items }) => [name, items])).toEqual([
    ['sample-base', 10],
    ['sample-spin1at2', 5],
    ['sample-spin1', 10],
  ]);
  const order = epochOrder({ seed: 5n, iteration: 1 }, 0, 40);
  const drawn = (name: string) => {
    const stage = stages.find((one) => one.name === name)!;
    return Array.from({ length: stage.shards }, (_, shard) =>
      shardItems(parted, stage, shard, new Set()),
    ).flat();
  };
  expect(drawn('sample-base').map(({ index }) => index)).toEqual([...order.slice(0, 10)]);
  const second = drawn('sample-spin1at2');
  expect(second.map(({ index }) => index)).toEqual([...order.slice(10, 15)]);
  for (const { index, seed } of second) expect(seed).toBe(imageSeed(5, 'sample-1-2', index));
});
