/** Reads what the docs are compared with from the repository. */
import { readFileSync, readdirSync } from 'node:fs';
import { join, posix } from 'node:path';
import type { Facts } from './rules.js';

const skipped = new Set(['node_modules', 'dist', 'build', 'artifacts', 'coverage', 'gen']);
const source = /\.(ts|mjs|js|cjs|h|cc|cu|inl|proto|txt|cmake|in|json|ya?ml|html|css|sh)$/;

/** All files that may belong to a checkout, from the root with "/". */
export function listFiles(root: string, folder = ''): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = posix.join(folder, entry.name);
    if (entry.isDirectory()) {
      const hidden = entry.name.startsWith('.') && !['.github', '.ci'].includes(entry.name);
      return skipped.has(entry.name) || hidden ? [] : listFiles(root, path);
    }
    return [path];
  });
}

export function readFacts(root: string, files: readonly string[], foreign: string[]): Facts {
  const texts = files
    .filter((path) => source.test(path) && !path.startsWith('test/docs/'))
    .filter((path) => !/(^|\/)fixtures\/|package-lock|gateway\/schema\//.test(path))
    .map((path) => ({ path, text: readFileSync(join(root, path), 'utf8') }));
  const textOf = (wanted: RegExp) =>
    texts
      .filter(({ path }) => wanted.test(path))
      .map(({ text }) => text)
      .join('\n');
  const all = (text: string, pattern: RegExp) =>
    [...text.matchAll(pattern)].map((match) => match[1] ?? '');
  const packages = texts.filter(({ path }) => path.endsWith('package.json'));
  const cli = textOf(/^gateway\/src\/cli\/(?!.*\.test\.)/);
  return {
    paths: new Set([...files, ...files.flatMap(folders), 'proto/gen', 'dist', 'build']),
    words: new Set([
      ...texts.flatMap(({ text }) => text.match(/[A-Za-z_]\w*/g) ?? []),
      // Programs have the names of their sources.
      ...files.map((path) => posix.basename(path).replace(/\..*$/, '')),
    ]),
    scripts: new Set(
      packages.flatMap(({ text }) =>
        Object.keys((JSON.parse(text) as { scripts?: object }).scripts ?? {}),
      ),
    ),
    commands: new Set([
      ...all(cli, /\.command\('([\w-]+)/g),
      ...all(cli, /\bname: '([\w-]+)'/g),
      ...all(textOf(/cli\/commands\/engine\.ts$/), /^ {2}'?([\w-]+)'?: '/gm),
    ]),
    projects: new Set(all(textOf(/^vitest\.config\.ts$/), /(?:crossPackage\(|name: )'(\w+)'/g)),
    foreign: new Set(foreign),
  };
}

function folders(path: string): string[] {
  const parts = path.split('/').slice(0, -1);
  return parts.map((_, i) => parts.slice(0, i + 1).join('/'));
}
