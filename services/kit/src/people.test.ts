import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, test } from 'vitest';
import { callerOf } from './grpc/ask-for-token.js';
import type { Logger } from './logger.js';
import { People, reaches, roles, tokenDigest } from './people.js';
import { newToken } from './token.js';

const folder = mkdtempSync(join(tmpdir(), 'spindle-people-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const file = join(folder, 'tokens');
const [mesh, ada, ci] = [newToken(), newToken(), newToken()];
const hashed = `sha256:${tokenDigest(ci).toString('hex')}`;

function open(text: string): People | undefined {
  writeFileSync(file, text);
  return People.open(file);
}

test('a role reaches as far as those before it', () => {
  expect(roles.map((role) => roles.filter((least) => reaches(role, least)))).toEqual([
    ['viewer'],
    ['viewer', 'operator'],
    ['viewer', 'operator', 'admin'],
  ]);
});

test('a header is that of the mesh, of a line of the file, or of nobody', () => {
  const people = open(`# people\n\nada@example.org  viewer ${ada}\n ci operator ${hashed}\n`);
  const door = { token: mesh, people };
  expect(callerOf(`Bearer ${mesh}`, door)).toEqual({ name: 'mesh', role: 'admin' });
  expect(callerOf(`bearer ${ada}`, door)).toEqual({ name: 'ada@example.org', role: 'viewer' });
  expect(callerOf(`Bearer ${ci}`, door)).toEqual({ name: 'ci', role: 'operator' });
  for (const header of [
    undefined,
    '',
    mesh,
    `Basic ${mesh}`,
    'Bearer',
    `Bearer ${mesh} x`,
    `Bearer ${mesh}x`,
    `Bearer ${newToken()}`,
    // What the file has of a token does not stand for it.
    `Bearer ${hashed}`,
    `Bearer ${hashed.replace('sha256:', '')}`,
  ])
    expect(callerOf(header, door)).toBeUndefined();
  expect(callerOf(`Bearer ${ada}`, { token: mesh })).toBeUndefined();
  expect(People.open('')).toBeUndefined();
});

describe('a file that cannot be used is told in one sentence, without its tokens', () => {
  it.each([
    ['ada viewer', /:1: expected "NAME ROLE TOKEN"/],
    [`ada viewer ${ada} x`, /:1: expected "NAME ROLE TOKEN", got 4 words/],
    [`# x\nada root ${ada}`, /:2: expected a role \(viewer, operator, admin\)/],
    [`a,b viewer ${ada}`, /:1: expected a name of letters/],
    ['ada viewer short', /:1: expected a token of 22 to 512/],
    ['ada viewer sha256:abc', /:1: expected a token of 22 to 512/],
    [`ada viewer ${ada}\nada admin ${ci}`, /:2: expected a name once, got "ada" again/],
    [`ada viewer ${ci}\nbob admin ${hashed}`, /:2: expected a token of its own/],
  ])('%#', (text, sentence) => {
    expect(() => open(text)).toThrow(sentence);
    try {
      open(text);
    } catch (error) {
      for (const token of [ada, ci]) expect(String(error)).not.toContain(token);
    }
  });

  it('names one that is not there', () => {
    expect(() => People.open(join(folder, 'none'))).toThrow(/SPINDLE_TOKENS_FILE: cannot be/);
  });
});

test('what changes in the file counts; what cannot be read is told of once and does not', () => {
  const people = open(`ada viewer ${ada}`);
  const told: unknown[] = [];
  const logger = { error: (fields: unknown) => told.push(fields) } as unknown as Logger;
  writeFileSync(file, `ada operator ${ada}\nci admin ${ci}\n`);
  expect(people?.who(ci)).toBeUndefined();
  people?.look(logger);
  expect([people?.who(ada)?.role, people?.who(ci)?.role]).toEqual(['operator', 'admin']);
  writeFileSync(file, 'torn');
  people?.look(logger);
  people?.look(logger);
  expect(told).toHaveLength(1);
  expect(people?.who(ci)?.role).toBe('admin');
  writeFileSync(file, `ci admin ${ci}\n`);
  people?.look(logger);
  expect(people?.who(ada)).toBeUndefined();
});
