import { readFileSync, readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import type { Workspace } from './typescript-rules.js';

export interface SourceFile {
  /** From the repository's root, with "/". */
  path: string;
  text: string;
}

export interface Violation {
  /** "file -> what it imports". */
  edge: string;
  rule: string;
}

const skipped = new Set(['node_modules', 'dist', 'build', 'gen', 'third_party', '.cache', '.git']);

export function readSources(root: string, folders: readonly string[], name: RegExp): SourceFile[] {
  return folders
    .flatMap((folder) => walk(join(root, folder)))
    .filter((path) => name.test(path))
    .map((path) => ({
      path: relative(root, path).split(sep).join('/'),
      text: readFileSync(path, 'utf8'),
    }));
}

function walk(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return skipped.has(entry.name) ? [] : walk(path);
    return entry.isFile() ? [path] : [];
  });
}

export function readWorkspaces(root: string): Workspace[] {
  const services = readdirSync(join(root, 'services')).map((name) => `services/${name}`);
  return ['proto', 'gateway', 'native-cuda', ...services].map((folder) => {
    const {
      name,
      exports = {},
      dependencies = {},
    } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8')) as {
      name: string;
      exports?: Record<string, unknown>;
      dependencies?: Record<string, string>;
    };
    return { folder, name, exports: Object.keys(exports), dependencies: Object.keys(dependencies) };
  });
}

/** Tests, and what only tests use. */
export function isTest(path: string): boolean {
  return (
    path.startsWith('test/') ||
    path.startsWith('native-cuda/test/') ||
    path.includes('/testing/') ||
    /\.test\.(ts|mjs)$/.test(path)
  );
}
