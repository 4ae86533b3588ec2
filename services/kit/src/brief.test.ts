import { describe, expect, it } from 'vitest';
import { brief } from './brief.js';

/** 100,000 lists in each other, which JSON.parse reads and JSON.stringify cannot write. */
const deep: unknown = JSON.parse('['.repeat(100_000) + ']'.repeat(100_000));

describe('brief', () => {
  it.each<[unknown, string]>([
    [undefined, 'nothing'],
    [null, 'null'],
    [1.5, '1.5'],
    [10n, '10'],
    ['a "b"', '"a \\"b\\""'],
    [[1, 'x', [true]], '[1,"x",[true]]'],
    [{ a: 1, b: { c: [] } }, '{"a":1,"b":{"c":[]}}'],
    [Array.from({ length: 20 }, (_, i) => i), '[0,1,2,3,4,5,6,7,…]'],
    [deep, '[[[[[…]]]]]'],
  ])('writes value %#', (value, text) => {
    expect(brief(value)).toBe(text);
  });

  it('is short for whatever is long', () => {
    expect(() => JSON.stringify(deep)).toThrow(RangeError);
    for (const value of ['x'.repeat(1 << 20), Array(1e6).fill('y'), { ['k'.repeat(1e6)]: 1 }])
      expect(brief(value).length).toBeLessThanOrEqual(60);
  });
});
