import { expect, it } from 'vitest';
import { sealed, unsealed } from './sealed.js';
import { everyBitFlip } from './testing/bit-flips.js';

it('gives back what was sealed, and text without a seal as it is', () => {
  for (const json of ['{"a":1}', '[]', '7', '{\n "text": "größer \\u0000 😀"\n}\n'])
    expect(unsealed(sealed(json), 'here')).toBe(json);
  for (const old of ['{"key":"r1/encode/0000"}', '{"schemaVersion":1}', '7', ''])
    expect(unsealed(old, 'here')).toBe(old);
});

it('is JSON for people and other tools', () => {
  expect(JSON.parse(sealed('{"a":1}'))).toMatchObject({ body: { a: 1 } });
});

it('finds every single flipped bit, and every truncation', () => {
  const text = sealed('{"scores":[{"metric":"größe","values":[3.25,-1]}],"worker":"w1"}');
  for (const damaged of everyBitFlip(text))
    expect(() => unsealed(damaged, 'results/r1')).toThrow(
      'results/r1: expected text of the digest',
    );
  for (let length = 12; length < text.length; length++)
    expect(() => unsealed(text.slice(0, length), 'here')).toThrow('it is damaged');
});
