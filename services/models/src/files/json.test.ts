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

it('names the file when the text does not parse', () => {
  expect(() => parseJson('{"a":', 'some/config.json')).toThrow(
    /^some\/config\.json: expected JSON/,
  );
});
