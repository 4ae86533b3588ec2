import { expect, it } from 'vitest';
import { ensureError, SpindleError } from './errors.js';
import { printable, printableJson } from './printable.js';

it('writes what a terminal would obey as its number, and leaves words as they are', () => {
  expect(printable('\u001b]0;pwned\u0007 a\tb\nc\r\u009b2J \u202Egnp.exe')).toBe(
    '\\x1b]0;pwned\\x07 a\tb\nc\\x0d\\x9b2J \\u202egnp.exe',
  );
  const words = 'größe — 画像 🖼 e\u0301 "x" \\n';
  expect(printable(words)).toBe(words);
});

it('is what an error says, whoever made it', () => {
  const bad = 'file \u001b[2J';
  expect(new SpindleError('NOT_FOUND', bad).message).toBe('file \\x1b[2J');
  expect(ensureError(new Error(bad)).message).toBe('file \\x1b[2J');
});

it('leaves JSON what it is', () => {
  const json = JSON.stringify({ name: '\u001b]0;\u009b2J\u202E', 'a\\u001b': 'b\n' });
  expect(printable(printableJson(json))).toBe(printableJson(json));
  expect(JSON.parse(printableJson(json))).toEqual(JSON.parse(json));
});
