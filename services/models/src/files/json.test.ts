import { expect, it } from 'vitest';
import { parseJson, stringifyJson } from './json.js';

it("reads and writes Python's constants", () => {
  const text = '{"a":-Infinity,"b":[NaN,Infinity],"c":"-Infinity and NaN \\" Infinity"}';
  expect(parseJson(text, 'x')).toEqual({
    a: -Infinity,
    b: [NaN, Infinity],
    c: '-Infinity and NaN " Infinity',
  });
  expect(stringifyJson(parseJson(text, 'x'))).toBe(text);
});

it.each([
  '12Infinity',
  'Infinity5',
  '[1.Infinity]',
  '-NaN',
  'aNaN',
  'Infinit',
  '"NaN',
  '+Infinity',
])('refuses %s, as Python does', (text) => {
  expect(() => parseJson(text, 'x')).toThrow(/^x: expected JSON/);
});

it('reads long strings, however they are escaped', () => {
  for (const inner of ['x', '\\"', '\\\\', '\\n']) {
    const text = `"${inner.repeat(3_000_000)}"`;
    expect(parseJson(text, 'x')).toBe(JSON.parse(text));
    expect(parseJson(`[NaN,${text},"a"]`, 'x')).toEqual([NaN, JSON.parse(text), 'a']);
  }
});

it('takes no string for a constant', () => {
  const text = '["\\u0000spindle:Infinity","\\u0000spindle:NaN","NaN"]';
  expect(parseJson(text, 'x')).toEqual(JSON.parse(text));
  // Refused, not misread.
  expect(() => parseJson('["\\u0000spindle:NaN",NaN]', 'x')).toThrow(
    /a string that stands for NaN/,
  );
});

it('refuses what is too deep to go through, with the file', () => {
  const deep = '['.repeat(100_000) + ']'.repeat(100_000);
  expect(() => parseJson(deep, 'x')).toThrow(/^x: .*more than 900 lists and objects in each other/);
  expect(stringifyJson(parseJson(`${'['.repeat(900)}${']'.repeat(900)}`, 'x'))).toHaveLength(1800);
});

it('names the file when the text does not parse', () => {
  expect(() => parseJson('{"a":', 'some/config.json')).toThrow(
    /^some\/config\.json: expected JSON/,
  );
});
