/** The version is one: of every package, of what the packages ask of each other, of the engine. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { version } from '@spindle/kit';
import { expect, test } from 'vitest';
import { readSources, readWorkspaces } from './sources.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string): string => readFileSync(`${root}/${path}`, 'utf8');

interface Manifest {
  version: string;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
}
const manifest = (folder: string): Manifest =>
  JSON.parse(read(`${folder}/package.json`)) as Manifest;
const folders = readWorkspaces(root).map(({ folder }) => folder);

test.each(['.', ...folders])('%s/package.json says it', (folder) => {
  const { version: own, dependencies, devDependencies } = manifest(folder);
  expect(own).toBe(version);
  const asked = Object.entries({ ...dependencies, ...devDependencies });
  for (const [name, wanted] of asked.filter(([name]) => name.startsWith('@spindle/'))) {
    expect(wanted, name).toBe(version);
  }
});

test('the engine says it', () => {
  const found = /kVersion = "([^"]+)"/.exec(read('native-cuda/engine/core/version.h'));
  expect(found?.[1]).toBe(manifest('native-cuda').version);
});

test('no source says it again', () => {
  const typed = ['gateway/src', 'services', 'native-cuda/ts', 'proto/src'].flatMap((folder) =>
    readSources(root, [folder], /\.ts$/),
  );
  const quoted = new RegExp(`['"\`]${version.replaceAll('.', '\\.')}['"\`]`);
  const again = typed.filter(({ path, text }) => !/\.test\.ts$/.test(path) && quoted.test(text));
  expect(again.map(({ path }) => path)).toEqual([]);
});
