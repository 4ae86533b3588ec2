import { describe, expect, it } from 'vitest';
import { chosenBuild } from '../test.mjs';

describe('what npm test is asked for', () => {
  it.each([
    [{}, [], 'native'],
    [{}, ['kill'], 'native'],
    [{ only: 'ctest' }, [], 'native'],
    [{ only: 'vitest' }, ['kill'], 'native'],
    [{ only: 'ctest', sanitize: 'address' }, [], 'address'],
    [{ sanitize: 'thread' }, [], 'thread'],
    [{ only: 'ctest', clang: true }, [], 'clang'],
  ])('%j with words %j runs the engine tests of the build %s', (options, words, build) => {
    expect(chosenBuild(options, words)).toBe(build);
  });

  it.each([
    [{ only: 'jest' }, [], '--only: expected ctest or vitest, got jest'],
    [{ sanitize: 'memory' }, [], '--sanitize: expected address or thread, got memory'],
    [{ sanitize: 'thread', clang: true }, [], 'choose one'],
    [{ sanitize: 'address' }, ['thread'], '--sanitize address: words choose files of vitest alone'],
    [{ clang: true }, ['kill'], '--clang: words choose files of vitest alone, got kill'],
    [{ only: 'ctest' }, ['pool'], '--only ctest: words choose files of vitest alone, got pool'],
    [{ only: 'vitest', clang: true }, [], "--clang is about the engine's tests"],
  ])('%j with words %j is refused', (options, words, message) => {
    expect(() => chosenBuild(options, words)).toThrow(message);
  });
});
