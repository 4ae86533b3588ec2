import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Random } from './random.js';
import { difference } from './run-files.js';
import { injure, type Injury } from './stored-files.js';
import { tableOf, Tally } from './tally.js';

it('counts by class, and says beside every 0 what it is worth', () => {
  const tally = new Tally();
  for (let i = 0; i < 60; i++) tally.add('kill', i < 50 ? 'survived' : 'detected');
  tally.add('damaged: result', 'silent');
  const text = tableOf(tally.rows());
  expect(text).toContain('| kill            | 60 | 50       | 10       | 0    | 0 (< 5 %) |');
  expect(text).toContain('| damaged: result | 1  | 0        | 0        | 0    | 1         |');
  expect(text).toContain('| all             | 61 | 50       | 10       | 0    | 1         |');
});

it('draws the same from the same seed and round', () => {
  const draw = (label: string) => {
    const random = new Random(label);
    return [random.int(1, 1000), random.pick(['a', 'b', 'c']), random.some([1, 2, 3, 4], 2)];
  };
  expect(draw('seed 1, round 2')).toEqual(draw('seed 1, round 2'));
  expect(draw('seed 1, round 2')).not.toEqual(draw('seed 1, round 3'));
});

it('finds what differs, is missing or is one too many, and tells steps that are missing apart', () => {
  const calm = { files: { a: '1', b: '2' }, steps: { 'step 1': 'x', 'step 2': 'y' } };
  const run = { files: { a: '1', c: '3' }, steps: { 'step 1': 'z' } };
  expect(difference(calm, calm)).toEqual({ wrong: [], missingSteps: [] });
  expect(difference(calm, run)).toEqual({
    wrong: ['b is missing', 'c is one too many', 'step 1 differs'],
    missingSteps: ['step 2'],
  });
});

it('damages a file in each of the ways', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'spindle-injure-'));
  try {
    const file = join(folder, 'file');
    const before = Buffer.alloc(2_000, 0xff);
    const bytesAfter = async (injury: Injury): Promise<Buffer | null> => {
      await writeFile(file, before);
      await injure(file, injury, new Random(injury));
      return readFile(file).catch(() => null);
    };
    const turned = await bytesAfter('bit');
    expect(turned?.filter((byte) => byte !== 0xff)).toHaveLength(1);
    const zeroes = (await bytesAfter('zeroes'))?.filter((byte) => byte === 0).length ?? 0;
    expect([512, 2_000 - 3 * 512]).toContain(zeroes);
    expect((await bytesAfter('cut'))?.length).toBeLessThan(2_000);
    expect(await bytesAfter('gone')).toBeNull();
    await expect(stat(file)).rejects.toThrow('ENOENT');
    expect(await injure(file, 'bit', new Random('x'))).toBeUndefined();
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
