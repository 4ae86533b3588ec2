import { describe, expect, it } from 'vitest';
import { bucketTable, nearestSize, sizeName } from './buckets.js';

describe('the table of buckets', () => {
  it('has the largest sizes of the square’s area, in steps of 64', () => {
    // 512² = 262144 = 448 · 585.1 = 384 · 682.7; 320 · 819.2 would be 320×768, more than twice as
    // high as wide.
    expect(bucketTable(512, { step: 64, maxRatio: 2 }).map(sizeName)).toEqual([
      '384×640',
      '448×576',
      '512×512',
      '576×448',
      '640×384',
    ]);
  });

  it('has some of the sizes that SDXL was trained on, and widens with the ratio', () => {
    const names = bucketTable(1024, { step: 64, maxRatio: 4 }).map(sizeName);
    expect(names).toContain('832×1216');
    expect(names).toContain('1216×832');
    expect(names).toContain('512×2048');
    expect(bucketTable(1024, { step: 64, maxRatio: 1.01 })).toEqual([
      { height: 1024, width: 1024 },
    ]);
  });

  it.each([
    [512, 64, 2],
    [768, 64, 3],
    [1024, 32, 4],
    [64, 8, 2],
    [64, 64, 2],
  ])(
    'keeps to area, step and ratio, names no size twice and is symmetric (%i, %i, %i)',
    (resolution, step, maxRatio) => {
      const table = bucketTable(resolution, { step, maxRatio });
      const names = table.map(sizeName);
      expect(new Set(names).size).toBe(names.length);
      expect(
        table.map(({ height, width }) => sizeName({ height: width, width: height })).reverse(),
      ).toEqual(names);
      for (const { height, width } of table) {
        expect([height % step, width % step]).toEqual([0, 0]);
        expect(height * width).toBeLessThanOrEqual(resolution ** 2);
        expect(Math.max(height / width, width / height)).toBeLessThanOrEqual(maxRatio);
      }
      const ratios = table.map(({ height, width }) => width / height);
      expect([...ratios].sort((a, b) => a - b)).toEqual(ratios);
    },
  );
});

describe('the nearest size', () => {
  const table = bucketTable(512, { step: 64, maxRatio: 2 });

  it.each([
    ['a photo of 3:2', 3000, 2000, '640×384'],
    ['a photo of 4:3', 4000, 3000, '576×448'],
    ['a portrait', 3000, 4000, '448×576'],
    ['a square', 77, 77, '512×512'],
    ['a panorama beyond the ratio', 9000, 1000, '640×384'],
    ['a strip beyond the ratio', 10, 9000, '384×640'],
  ])('of %s', (_what, width, height, name) => {
    expect(sizeName(nearestSize(table, { height, width }))).toBe(name);
  });

  it('is nearest by the logarithm: a ratio between two sizes belongs to the one by which less is cut off', () => {
    // Between 1 and 9/7 the border is √(9/7) = 1.1339, not their mean 1.1429.
    expect(sizeName(nearestSize(table, { height: 1000, width: 1133 }))).toBe('512×512');
    expect(sizeName(nearestSize(table, { height: 1000, width: 1135 }))).toBe('576×448');
    expect(sizeName(nearestSize(table, { height: 1135, width: 1000 }))).toBe('448×576');
  });

  it('of two that are equally near is the first', () => {
    const sizes = [
      { height: 4, width: 1 },
      { height: 1, width: 4 },
    ];
    expect(nearestSize(sizes, { height: 5, width: 5 })).toEqual(sizes[0]);
  });
});
