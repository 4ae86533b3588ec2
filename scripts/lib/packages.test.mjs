import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { packagesAreFresh } from './packages.mjs';

describe('node_modules against the lock file', () => {
  let folder;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'spindle-packages-'));
    await mkdir(join(folder, 'node_modules', 'a'), { recursive: true });
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  async function write(wanted, installed) {
    await writeFile(join(folder, 'package-lock.json'), JSON.stringify({ packages: wanted }));
    if (installed)
      await writeFile(
        join(folder, 'node_modules', '.package-lock.json'),
        JSON.stringify({ packages: installed }),
      );
  }

  it('is fresh when every version is there', async () => {
    await write(
      { '': {}, 'node_modules/a': { version: '1.0.0' } },
      { 'node_modules/a': { version: '1.0.0' } },
    );
    expect(packagesAreFresh(folder)).toBe(true);
  });

  it('is stale when nothing was installed', async () => {
    await write({ 'node_modules/a': { version: '1.0.0' } }, undefined);
    expect(packagesAreFresh(folder)).toBe(false);
  });

  it('is stale when a version differs, or a folder was deleted', async () => {
    await write(
      { 'node_modules/a': { version: '1.0.1' } },
      { 'node_modules/a': { version: '1.0.0' } },
    );
    expect(packagesAreFresh(folder)).toBe(false);
    await write(
      { 'node_modules/b': { version: '1.0.0' } },
      { 'node_modules/b': { version: '1.0.0' } },
    );
    expect(packagesAreFresh(folder)).toBe(false);
  });

  it('does not miss the packages of other platforms', async () => {
    await write(
      {
        'node_modules/a': { version: '1.0.0' },
        'node_modules/mac': { version: '1.0.0', optional: true },
      },
      { 'node_modules/a': { version: '1.0.0' } },
    );
    expect(packagesAreFresh(folder)).toBe(true);
  });
});
