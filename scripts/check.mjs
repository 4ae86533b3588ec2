// `npm run check`: what has to hold before a change is proposed, beside the tests: format, lint,
// types, architecture, docs, generated files. Parts run side by side and keep caches; nothing
// native is built. `npm run check -- lint docs` runs some, `npm run check -- --fix` mends what
// formatters, the linter and the generators can.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { installPackages } from './lib/packages.mjs';
import { runParts } from './lib/parts.mjs';
import { main, phase, root, ScriptError } from './lib/phase.mjs';
import { checkNode } from './lib/system.mjs';

const cache = 'node_modules/.cache';
const bin = (path) => [process.execPath, `node_modules/${path}`];
const tsc = bin('typescript/bin/tsc');

/** C++ as git knows it, and what is new; a checkout without git has all of it checked by CI. */
function cppFiles() {
  const listed = spawnSync(
    'git',
    ['ls-files', '--cached', '--others', '--exclude-standard', 'native-cuda'],
    { cwd: root, encoding: 'utf8' },
  );
  if (listed.status !== 0) throw new ScriptError('git ls-files failed: check needs a git checkout');
  return listed.stdout
    .split('\n')
    .filter((file) => /\.(h|cc|cu|inl)$/.test(file) && existsSync(file));
}

/** The longest first, so that no core waits for it at the end. */
function parts(fix) {
  const eslint = [...bin('eslint/bin/eslint.js'), '.', '--max-warnings', '0'];
  const prettier = [...bin('prettier/bin/prettier.cjs'), '.', '--log-level', 'warn'];
  const vitest = [...bin('vitest/vitest.mjs'), 'run', '--reporter=dot'];
  return [
    {
      name: 'lint',
      commands: [
        [
          ...eslint,
          ...(fix ? ['--fix'] : []),
          ...['--cache', '--cache-location', `${cache}/eslint/`, '--cache-strategy', 'content'],
        ],
      ],
    },
    {
      name: 'types of the tests',
      commands: [[...tsc, '-p', 'tsconfig.test.json']],
    },
    {
      name: 'format',
      commands: [
        [
          ...prettier,
          fix ? '--write' : '--check',
          ...['--cache', '--cache-location', `${cache}/prettier.json`],
        ],
      ],
    },
    {
      name: 'format of C++',
      commands: [
        [
          ...bin('clang-format-node/build/cli.js'),
          ...(fix ? ['-i'] : ['--dry-run', '-Werror']),
          ...cppFiles(),
        ],
      ],
    },
    {
      name: 'generated files',
      commands: [[process.execPath, 'scripts/generated.mjs', ...(fix ? ['--write'] : [])]],
    },
    {
      name: 'architecture and docs',
      commands: [[...vitest, '--project', 'architecture', '--project', 'docs']],
    },
  ];
}

/**
 * Runs the parts whose names begin with one of the words, or all, behind the packages' own types;
 * one entry a part.
 */
export async function check(words = [], fix = false) {
  checkNode();
  await phase('npm packages', () => installPackages());
  const all = parts(fix);
  const unknown = words.find((word) => !all.some(({ name }) => name.startsWith(word)));
  if (unknown !== undefined) {
    const names = all.map(({ name }) => name).join(', ');
    throw new ScriptError(`${unknown}: expected a part of the check (${names})`, 2);
  }
  const chosen = all.filter(
    ({ name }) => words.length === 0 || words.some((word) => name.startsWith(word)),
  );
  // What packages declare to each other is read by the linter and by the tests' types.
  const types = await runParts([{ name: 'types', commands: [[...tsc, '-b']] }]);
  // A fix writes what others read.
  return [...types, ...(await runParts(chosen, fix ? 1 : undefined))];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { fix: { type: 'boolean', default: false } },
    });
    let failed = [];
    await phase('check', async () => {
      const results = await check(positionals, values.fix);
      failed = results.filter(({ ok }) => !ok);
    });
    if (failed.length === 0) return 0;
    const names = failed.map(({ name }) => name).join(', ');
    console.error(
      `error: check failed: ${names}${values.fix ? '' : ' (npm run check -- --fix mends some)'}`,
    );
    return 1;
  });
}
