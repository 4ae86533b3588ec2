import { openLocalStore, type ArtifactStore } from '@spindle/mesh';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Dataset, type DatasetOptions } from './dataset.js';
import { byShape, microBatches } from './domain/draws.js';
import { encodedShard, generatedShard, posteriorShard, raggedShard } from './testing/data.js';

let root: string;
let store: ArtifactStore;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'dataset-'));
  store = await openLocalStore(root);
});
afterEach(() => rm(root, { recursive: true }));

const options: Omit<DatasetOptions, 'encoded' | 'generated'> = {
  leftOut: [],
  previous: [],
  previousShare: 0,
  against: 'generated',
  drawnAsRead: false,
  key: { seed: 1n, iteration: 1 },
  scalingFactor: 0.5,
  shiftFactor: 0,
  samplePosterior: false,
  captionDropout: 0,
  emptyText: null,
};
const draw = (element: number, epoch = 0) => ({ element, epoch, position: element });

describe('images that are left out', () => {
  it('are not read, and rows without another one have no place', async () => {
    const dataset = await Dataset.open(store, {
      ...options,
      encoded: [await encodedShard(store, [3, 5, 7])],
      generated: [
        await generatedShard(store, [5, 3, 5], 0.5),
        await generatedShard(store, [7, 5, 3], 0.25),
      ],
      leftOut: [
        { indexes: [5], copies: [1] },
        { indexes: [7, 3], copies: [0, 0] },
      ],
    });
    expect(dataset.elements.map(({ index }) => index)).toEqual([3, 5]);
    const read = async (element: number, epoch: number) => {
      const part = { offset: 0, size: 1, last: true };
      return (await dataset.batch(0, [draw(element, epoch)], part)).generated?.data[0];
    };
    expect(await Promise.all([0, 1].map((epoch) => read(0, epoch)))).toEqual([3.5, 3.5]);
    expect(await Promise.all([0, 1, 2].map((epoch) => read(1, epoch)))).toEqual([5.5, 5.25, 5.5]);
    await dataset.close();
  });

  it('that were encoded again are so with all their views', async () => {
    const dataset = await Dataset.open(store, {
      ...options,
      scalingFactor: 1,
      encoded: [await encodedShard(store, [3, 3, 5, 5])],
      generated: [await posteriorShard(store, [3, 3, 3, 3, 5, 5])],
      leftOut: [{ indexes: [3], copies: [0] }],
    });
    const part = { offset: 0, size: 1, last: true };
    const read = await Promise.all(
      [0, 1, 2].map(async (epoch) => dataset.batch(0, [draw(0, epoch)], part)),
    );
    // The mean is the row's number: two and three are the second image's views.
    expect(read.map(({ generated }) => generated?.data[0])).toEqual([2, 3, 2]);
    await dataset.close();
  });
});

it('matches real and generated images by index, whatever shard they lie in', async () => {
  const dataset = await Dataset.open(store, {
    ...options,
    encoded: [await encodedShard(store, [5, 0]), await encodedShard(store, [3, 9])],
    generated: [await generatedShard(store, [3, 0, 5], 0.5)],
  });
  expect(dataset.size).toBe(3);
  expect(dataset.unmatched).toBe(1);
  const batch = await dataset.batch(7, [draw(0), draw(1), draw(2)], {
    offset: 1,
    size: 2,
    last: true,
  });
  expect(batch).toMatchObject({ step: 7, offset: 1, stepBatchSize: 3 });
  expect(batch.real.shape).toEqual([2, 1, 2, 2]);
  expect([...batch.real.data]).toEqual(
    [3, 3.125, 3.25, 3.375, 5, 5.125, 5.25, 5.375].map((x) => x * 0.5),
  );
  expect([batch.generated?.data[0], batch.generated?.data[4]]).toEqual([3.5, 5.5]);
  expect(batch.text.data[0]).toBe(30);
  await dataset.close();
});

it('shows another view of a real image in every epoch, and of its pair the same one', async () => {
  // Two views of each row; of the generated image two copies in two views.
  const encoded = [await encodedShard(store, [0, 7, 0, 7], [0, 7, 0, 7])];
  const generated = [await posteriorShard(store, [0, 0, 0, 0, 7, 7, 7, 7])];
  const seen = async (against: 'generated' | 'rejected') => {
    const dataset = await Dataset.open(store, {
      ...options,
      scalingFactor: 1,
      against,
      encoded,
      generated,
    });
    expect(dataset.size).toBe(2);
    const values: number[] = [];
    for (const epoch of [0, 1, 2, 3, 4])
      values.push(
        (await dataset.batch(0, [draw(1, epoch)], { offset: 0, size: 1, last: true })).generated
          ?.data[0] ?? -1,
      );
    await dataset.close();
    return values;
  };
  expect(await seen('generated')).toEqual([4, 5, 6, 7, 4]);
  expect(await seen('rejected')).toEqual([107, 107, 107, 107, 107]);
});

it('draws encoded generated images from their own posterior', async () => {
  const dataset = await Dataset.open(store, {
    ...options,
    samplePosterior: true,
    encoded: [await encodedShard(store, [0])],
    generated: [await posteriorShard(store, [0])],
  });
  const { real, generated } = await dataset.batch(0, [draw(0)], { offset: 0, size: 1, last: true });
  // Both have mean 0 (+ i/8 of the real one) and logvar -1; the noise is not the same.
  const noise = [...real.data].map((value, i) => value / 0.5 - i / 8);
  expect([...(generated?.data ?? [])].map((value) => value / 0.5)).not.toEqual(noise);
  await dataset.close();
});

it('takes a fraction of the generated images from the iteration before', async () => {
  const dataset = await Dataset.open(store, {
    ...options,
    encoded: [await encodedShard(store, [0, 1])],
    generated: [await generatedShard(store, [0, 1], 0.25)],
    previous: [await generatedShard(store, [0], 0.75)],
    previousShare: 0.25,
  });
  const of = async (element: number) => {
    const draws = Array.from({ length: 400 }, (_, position) => ({ element, epoch: 0, position }));
    const { generated } = await dataset.batch(0, draws, { offset: 0, size: 400, last: true });
    return draws.filter((_, i) => generated?.data[i * 4] === element + 0.75).length;
  };
  // Five standard errors of 400 draws with fraction 1/4.
  expect(Math.abs((await of(0)) - 100)).toBeLessThan(44);
  expect(await of(0)).toBe(await of(0));
  // Nothing was drawn for it then.
  expect(await of(1)).toBe(0);
  await dataset.close();
});

it('lets several generated images of one prompt take turns by epoch', async () => {
  const dataset = await Dataset.open(store, {
    ...options,
    encoded: [await encodedShard(store, [0])],
    generated: [await generatedShard(store, [0], 0.25), await generatedShard(store, [0], 0.75)],
  });
  const seen: (number | undefined)[] = [];
  for (const epoch of [0, 1, 2])
    seen.push(
      (await dataset.batch(0, [draw(0, epoch)], { offset: 0, size: 1, last: true })).generated
        ?.data[0],
    );
  expect(seen).toEqual([0.25, 0.75, 0.25]);
  await dataset.close();
});

it('pairs the rejected images of the encoded shards, each from its own posterior', async () => {
  const encoded = [
    await encodedShard(store, [5, 0], [5]),
    await encodedShard(store, [3, 9], [9, 3]),
    await encodedShard(store, [2]),
  ];
  const open = (samplePosterior: boolean) =>
    Dataset.open(store, {
      ...options,
      against: 'rejected',
      samplePosterior,
      encoded,
      generated: [],
    });
  const dataset = await open(false);
  expect(dataset.elements.map(({ index }) => index)).toEqual([3, 5, 9]);
  expect(dataset.unmatched).toBe(2);
  const batch = await dataset.batch(0, [draw(0), draw(1), draw(2)], {
    offset: 0,
    size: 3,
    last: true,
  });
  // Rejected latents are index + 100, scaled as the real ones are.
  expect([0, 4, 8].map((i) => batch.generated?.data[i])).toEqual([51.5, 52.5, 54.5]);
  expect([0, 4, 8].map((i) => batch.real.data[i])).toEqual([1.5, 2.5, 4.5]);
  await dataset.close();
  const sampled = await open(true);
  const drawn = await sampled.batch(0, [draw(0)], { offset: 0, size: 1, last: true });
  const real = (drawn.real.data[0] ?? 0) - 1.5;
  const rejected = (drawn.generated?.data[0] ?? 0) - 51.5;
  expect(Math.abs(real)).toBeGreaterThan(1e-3);
  expect(Math.abs(rejected)).toBeGreaterThan(1e-3);
  expect(rejected).not.toBeCloseTo(real, 3);
  await sampled.close();
  const unpaired = {
    ...options,
    against: 'rejected' as const,
    encoded: [await encodedShard(store, [2])],
    generated: [],
  };
  await expect(Dataset.open(store, unpaired)).rejects.toThrow(
    'expected at least one image that has a rejected one, got none',
  );
});

it('replaces dropped captions by the empty prompt', async () => {
  const emptyText = {
    text: { data: new Float32Array(4).fill(-1), shape: [1, 2, 2] },
    pooled: null,
  };
  const dataset = await Dataset.open(store, {
    ...options,
    encoded: [await encodedShard(store, [0])],
    generated: [],
    against: null,
    captionDropout: 1,
    emptyText,
  });
  const batch = await dataset.batch(0, [draw(0)], { offset: 0, size: 1, last: true });
  expect(batch.generated).toBeNull();
  expect([...batch.text.data]).toEqual([-1, -1, -1, -1]);
  expect([batch.pooled, batch.timeIds]).toEqual([null, null]);
  await dataset.close();
});

it('hands on pooled texts, sizes and crops where the shards have them; a dropped caption loses the text alone', async () => {
  const shard = {
    ...options,
    encoded: [await encodedShard(store, [4, 7], [], { pooledWidth: 3 })],
    generated: [],
    against: null,
    emptyText: {
      text: { data: new Float32Array(4), shape: [1, 2, 2] },
      pooled: { data: new Float32Array(3), shape: [1, 3] },
    },
  };
  for (const captionDropout of [0, 1]) {
    const dataset = await Dataset.open(store, { ...shard, captionDropout });
    const { pooled, timeIds } = await dataset.batch(0, [draw(1), draw(0)], {
      offset: 0,
      size: 2,
      last: true,
    });
    expect(pooled).toEqual({
      data: Float32Array.from(
        [7, 7.125, 7.25, 4, 4.125, 4.25].map((x) => (captionDropout === 1 ? 0 : x)),
      ),
      shape: [2, 3],
    });
    expect(timeIds).toEqual({
      data: Float32Array.from([64, 71, 0, 7, 64, 64, 64, 68, 0, 4, 64, 64]),
      shape: [2, 6],
    });
    await dataset.close();
  }
});

describe('images of several shapes', () => {
  const wide = [1, 2, 6];
  const high = [1, 6, 2];
  const square = [1, 2, 2];

  it('are batched by shape, with what they are told from and their texts', async () => {
    const dataset = await Dataset.open(store, {
      ...options,
      scalingFactor: 1,
      encoded: [
        await raggedShard(store, 'encoded', [
          [5, wide],
          [0, square],
          [3, high],
        ]),
        await raggedShard(store, 'encoded', [
          [8, wide],
          [9, square],
        ]),
      ],
      generated: [
        await raggedShard(store, 'latents', [
          [9, square],
          [8, wide],
        ]),
        await raggedShard(store, 'latents', [
          [3, high],
          [0, square],
          [5, wide],
        ]),
      ],
    });
    expect(dataset.shapes).toEqual([square, wide, high]);
    const { draws, shapes } = byShape(
      [0, 1, 2, 3, 4].map((element) => draw(element)),
      (each) => dataset.shapeOf(each),
    );
    expect(shapes).toEqual([0, 0, 1, 1, 2]);
    const batches = await Promise.all(
      microBatches(shapes, 1).map((micro) => dataset.batch(0, draws, micro)),
    );
    expect(
      batches.map(({ offset, stepBatchSize, last, real, generated }) => [
        offset,
        stepBatchSize,
        last,
        real.shape,
        generated?.shape,
      ]),
    ).toEqual([
      [0, 5, false, [2, ...square], [2, ...square]],
      [2, 5, false, [2, ...wide], [2, ...wide]],
      [4, 5, true, [1, ...high], [1, ...high]],
    ]);
    // Rows hold their index, and their place in the row in eighths.
    const first = (batch: (typeof batches)[number], size: number) =>
      [batch.real, batch.generated].map((of) => [of?.data[0], of?.data[size], of?.data.at(-1)]);
    expect(first(batches[0]!, 4)).toEqual([
      [0, 9, 9 + 3 / 8],
      [0, 9, 9 + 3 / 8],
    ]);
    expect(first(batches[1]!, 12)).toEqual([
      [5, 8, 8 + 11 / 8],
      [5, 8, 8 + 11 / 8],
    ]);
    expect(batches.map(({ text }) => [...text.data].filter((_, i) => i % 4 === 0))).toEqual([
      [0, 90],
      [50, 80],
      [30],
    ]);
    await dataset.close();
  });

  it('are paired with rejected images of their shapes', async () => {
    const encoded = [
      await raggedShard(
        store,
        'encoded',
        [
          [5, wide],
          [0, square],
          [3, high],
        ],
        [
          [3, high],
          [5, wide],
        ],
      ),
    ];
    const dataset = await Dataset.open(store, {
      ...options,
      scalingFactor: 1,
      against: 'rejected',
      encoded,
      generated: [],
    });
    expect(dataset.elements.map(({ index }) => index)).toEqual([3, 5]);
    const batch = await dataset.batch(0, [draw(1)], { offset: 0, size: 1, last: true });
    expect([batch.real.shape, batch.generated?.shape, batch.generated?.data[0]]).toEqual([
      [1, ...wide],
      [1, ...wide],
      105,
    ]);
    await dataset.close();
  });

  it('are refused where a pair has two, in one sentence', async () => {
    const generated = [await raggedShard(store, 'latents', [[5, high]])];
    await expect(
      Dataset.open(store, {
        ...options,
        encoded: [await raggedShard(store, 'encoded', [[5, wide]])],
        generated,
      }),
    ).rejects.toThrow('shards: expected all latents of image 5 to be [1, 2, 6], got [1, 6, 2]');
  });
});

it('refuses an index twice, no pair at all and a shard of another kind', async () => {
  const encoded = [await encodedShard(store, [0])];
  await expect(
    Dataset.open(store, { ...options, encoded: [...encoded, ...encoded], generated: [] }),
  ).rejects.toThrow('encoded_shards: expected every index in one shard, got 0 in two');
  await expect(
    Dataset.open(store, { ...options, encoded, generated: [await generatedShard(store, [1], 0)] }),
  ).rejects.toThrow(/expected at least one image that has a generated one/);
  await expect(Dataset.open(store, { ...options, encoded, generated: encoded })).rejects.toThrow(
    'generated_shards[0]: expected a tensor latents, got none',
  );
});
