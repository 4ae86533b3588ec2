import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { newToken, readToken, sameToken } from './token.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spindle-token-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test('a fresh token has 256 bits, is never the same, and is one that is taken', () => {
  const tokens = Array.from({ length: 100 }, newToken);
  expect(new Set(tokens).size).toBe(100);
  for (const token of tokens) {
    expect(Buffer.from(token, 'base64url')).toHaveLength(32);
    expect(readToken({ SPINDLE_TOKEN: token })).toBe(token);
  }
});

test('only the whole token is the token', () => {
  const token = newToken();
  expect(sameToken(token, token)).toBe(true);
  for (const other of ['', token.slice(1), `${token}x`, token.toLowerCase(), newToken()])
    expect(sameToken(other, token)).toBe(false);
});

describe('the token of the environment', () => {
  it('comes from the variable, or from the file without its line end', async () => {
    const file = join(folder, 'token');
    const token = newToken();
    await writeFile(file, `${token}\n`);
    expect(readToken({})).toBeUndefined();
    expect(readToken({ SPINDLE_TOKEN: '', SPINDLE_TOKEN_FILE: '' })).toBeUndefined();
    expect(readToken({ SPINDLE_TOKEN_FILE: file })).toBe(token);
    const other = newToken();
    expect(readToken({ SPINDLE_TOKEN: other, SPINDLE_TOKEN_FILE: file })).toBe(other);
  });

  it.each([
    'short',
    'with a blank in the middle of it',
    'x'.repeat(513),
    'quote"quote"quote"quote"',
  ])('is refused without being repeated: %s', async (bad) => {
    const file = join(folder, 'token');
    await writeFile(file, bad);
    for (const variables of [{ SPINDLE_TOKEN: bad }, { SPINDLE_TOKEN_FILE: file }]) {
      const thrown = failure(() => readToken(variables));
      expect(thrown).toMatchObject({ code: 'INVALID_ARGUMENT' });
      expect(String(thrown)).toMatch(/SPINDLE_TOKEN.*: expected 22 to 512 letters/);
      expect(String(thrown)).not.toContain(bad);
    }
  });

  it('names a file that cannot be read', () => {
    const thrown = failure(() => readToken({ SPINDLE_TOKEN_FILE: join(folder, 'none') }));
    expect(thrown).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(String(thrown)).toMatch(/SPINDLE_TOKEN_FILE: cannot be read: .*none/);
  });
});

function failure(act: () => unknown): unknown {
  try {
    act();
  } catch (thrown) {
    return thrown;
  }
  throw new Error('expected a failure, got none');
}
