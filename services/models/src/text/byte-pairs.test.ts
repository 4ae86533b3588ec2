import { describe, expect, it } from 'vitest';
import { mergePairs } from './byte-pairs.js';

/** The definition: each time all pairs are looked at. */
function slowly(symbols: string[], ranks: ReadonlyMap<string, number>): string[] {
  for (;;) {
    let best = Number.POSITIVE_INFINITY;
    let at = -1;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const rank = ranks.get(`${symbols[i]} ${symbols[i + 1]}`);
      if (rank !== undefined && rank < best) {
        best = rank;
        at = i;
      }
    }
    if (at < 0) return symbols;
    symbols.splice(at, 2, `${symbols[at]}${symbols[at + 1]}`);
  }
}

/** Numbers from 0 to `below`, the same every time. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe('mergePairs', () => {
  it.each([0, 1, 2, 3, 4, 5, 6, 7])('gives what its definition gives, seed %i', (seed) => {
    const draw = numbers(seed);
    for (let round = 0; round < 200; round++) {
      // Merges of any order, whose parts may not exist or come later: more than trained ones have.
      const pieces = ['a', 'b', 'c'];
      const ranks = new Map<string, number>();
      for (let n = draw(30); n > 0; n--) {
        const [first, second] = [pieces[draw(pieces.length)], pieces[draw(pieces.length)]];
        const merge = `${first} ${second}`;
        if (!ranks.has(merge)) ranks.set(merge, ranks.size);
        pieces.push(`${first}${second}`);
      }
      const shuffled = new Map([...ranks.keys()].map((merge, i) => [merge, (i * 7 + seed) % 31]));
      const word = Array.from({ length: draw(40) }, () => 'abc'[draw(3)] ?? 'a');
      for (const order of [ranks, shuffled])
        if (new Set(order.values()).size === order.size)
          expect(mergePairs(word, order)).toEqual(slowly([...word], order));
    }
  });

  it('merges a long word in a moment', () => {
    const ranks = new Map(['a a', 'aa aa', 'aaaa aaaa'].map((merge, rank) => [merge, rank]));
    const started = performance.now();
    const merged = mergePairs(Array<string>(1 << 18).fill('a'), ranks);
    expect(merged).toHaveLength(1 << 15);
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});
