import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { sweepTemporaries } from './atomic.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spindle-atomic-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** Above what Linux gives to processes. */
const deadPid = 2 ** 22 + 1;

async function fileOf(name: string, ageMs: number): Promise<void> {
  const path = join(folder, name);
  await writeFile(path, 'x');
  const then = new Date(Date.now() - ageMs);
  await utimes(path, then, then);
}

it('sweeps what killed processes left an hour ago, and nothing else, in all folders', async () => {
  await mkdir(join(folder, 'images'));
  const old = 2 * 3_600_000;
  await fileOf(`.${deadPid}.0123456789abcdef.tmp`, old);
  await fileOf(`images/.${deadPid}.0123456789abcdef.tmp`, old);
  await fileOf(`images/.${deadPid}.1123456789abcdef.tmp`, 0);
  await fileOf(`images/.${process.pid}.0123456789abcdef.tmp`, old);
  await fileOf('images/0000.png', old);
  await fileOf('.hidden', old);
  await sweepTemporaries(folder, { depth: 'all' });
  expect((await readdir(folder, { recursive: true })).sort()).toEqual(
    [
      '.hidden',
      'images',
      'images/0000.png',
      `images/.${deadPid}.1123456789abcdef.tmp`,
      `images/.${process.pid}.0123456789abcdef.tmp`,
    ].sort(),
  );
});
