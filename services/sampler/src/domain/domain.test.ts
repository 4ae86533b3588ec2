import { create, fromBinary, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import { SamplingSettingsSchema } from '@spindle/proto';
import { describe, expect, it } from 'vitest';
import { batchesOf, unetBatchSize, vaeBatchSize } from './batches.js';
import { resolveSampling } from './sampling.js';
import { resolveTransform, viewOf } from './transform.js';

describe('batches', () => {
  it('cover everything once', () => {
    expect(batchesOf(5, 2)).toEqual([
      { from: 0, to: 2 },
      { from: 2, to: 4 },
      { from: 4, to: 5 },
    ]);
    expect(batchesOf(0, 2)).toEqual([]);
  });
  it('shrink as images grow and never vanish', () => {
    expect([64, 512, 4096].map((side) => vaeBatchSize(side, side))).toEqual([64, 1, 1]);
    expect([16, 64, 1024].map((side) => unetBatchSize(side, side))).toEqual([64, 4, 1]);
  });
});

describe('resolveSampling', () => {
  const settings = (init: MessageInitShape<typeof SamplingSettingsSchema> = {}) =>
    create(SamplingSettingsSchema, init);
  it('fills in what is not there, and only that', () => {
    expect(resolveSampling(settings())).toMatchObject({ steps: 50, guidanceScale: 7.5, eta: 0 });
    expect(resolveSampling(settings({ steps: 20, guidanceScale: 1 }))).toMatchObject({
      steps: 20,
      guidanceScale: 1,
    });
  });
  it('takes guidance 0 as it comes over the wire', () => {
    const bytes = toBinary(SamplingSettingsSchema, settings({ guidanceScale: 0 }));
    const sent = fromBinary(SamplingSettingsSchema, bytes);
    expect(resolveSampling(sent)).toMatchObject({ steps: 50, guidanceScale: 0 });
  });
  it.each([
    [{ steps: 1001 }, 'sampling.steps: expected a number from 1 to 1000, got 1001'],
    [{ steps: 0 }, 'sampling.steps: expected a number from 1 to 1000, got 0'],
    [
      { guidanceScale: Number.NaN },
      'sampling.guidance_scale: expected a number of at least 0, got NaN',
    ],
    [{ guidanceScale: -1 }, 'sampling.guidance_scale: expected a number of at least 0, got -1'],
    [{ eta: 2 }, 'sampling.eta: expected a number from 0 to 1, got 2'],
  ])('refuses %j', (init, message) => {
    expect(() => resolveSampling(settings(init))).toThrow(message);
  });
});

describe('views of an image', () => {
  const transform = {
    filter: 'bilinear',
    randomCrop: true,
    flip: true,
    views: 2,
    seed: 11n,
  } as const;
  it('are a function of seed, row and view', () => {
    expect(viewOf(transform, 3, 1)).toEqual(viewOf({ ...transform, views: 9 }, 3, 1));
    const others = [
      viewOf(transform, 3, 0),
      viewOf(transform, 4, 1),
      viewOf({ ...transform, seed: 12n }, 3, 1),
    ];
    for (const other of others) expect(other.at).not.toEqual(viewOf(transform, 3, 1).at);
  });
  it('are spread evenly, and stay as they are where nothing is asked for', () => {
    const views = Array.from({ length: 2000 }, (_, row) => viewOf(transform, row, 0));
    const mean = (of: (view: (typeof views)[number]) => number): number =>
      views.reduce((sum, view) => sum + of(view), 0) / views.length;
    // Five standard errors of 2,000 draws.
    expect(Math.abs(mean((view) => Number(view.flip)) - 0.5)).toBeLessThan(0.056);
    expect(Math.abs(mean((view) => view.at?.x ?? 9) - 0.5)).toBeLessThan(0.033);
    expect(Math.abs(mean((view) => view.at?.y ?? 9) - 0.5)).toBeLessThan(0.033);
    expect(
      Math.abs(mean((view) => (view.at ? (view.at.x - 0.5) * (view.at.y - 0.5) : 9))),
    ).toBeLessThan(0.01);
    expect(viewOf({ ...transform, flip: false, randomCrop: false }, 0, 0)).toEqual({
      flip: false,
      at: null,
    });
  });
  it('have defaults, and limits', () => {
    expect(resolveTransform(undefined)).toEqual({
      filter: 'bilinear',
      randomCrop: false,
      flip: false,
      views: 1,
      seed: 0n,
    });
    expect(() =>
      resolveTransform({ filter: 'box', randomCrop: false, flip: false, views: 1, seed: 0n }),
    ).toThrow('got "box"');
    expect(() =>
      resolveTransform({ filter: '', randomCrop: false, flip: false, views: 65, seed: 0n }),
    ).toThrow('expected at most 64, got 65');
  });
});
