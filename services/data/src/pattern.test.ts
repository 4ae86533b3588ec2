import { describe, expect, it } from 'vitest';
import { fitsPattern } from './pattern.js';

/** What a pattern says, as a regular expression. */
function byExpression(pattern: string): RegExp {
  const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(`^${parts.join('[^/]*')}$`);
}

describe('fitsPattern', () => {
  it('takes what the pattern says, for every name and pattern of a few characters', () => {
    const texts = (alphabet: string, length: number): string[] =>
      length === 0
        ? ['']
        : [
            '',
            ...texts(alphabet, length - 1).flatMap((rest) =>
              Array.from(alphabet).map((c) => c + rest),
            ),
          ];
    const names = [...new Set(texts('a./', 4))];
    for (const pattern of new Set(texts('a.*', 4))) {
      const expression = byExpression(pattern);
      for (const name of names)
        expect([pattern, name, fitsPattern(name, pattern)]).toEqual([
          pattern,
          name,
          expression.test(name),
        ]);
    }
  });

  it('finds a name beside many stars in a moment', () => {
    const started = performance.now();
    expect(fitsPattern('a'.repeat(1000), `${'*a'.repeat(100)}*b`)).toBe(false);
    expect(fitsPattern(`${'a'.repeat(1000)}b`, `${'*a'.repeat(100)}*b`)).toBe(true);
    expect(performance.now() - started).toBeLessThan(1000);
  });
});
