// `npm run house`: the house in figures: files, lines, long lines, documented exports, and in how
// many files a setting, a step's number and a kernel's signature are written. Says nothing of good
// or bad; two runs side by side show where a change went. `-- --root DIR` measures another
// checkout.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root as here, ScriptError } from './lib/phase.mjs';
import { lineFigures, exportFigures, wordFiles } from './lib/house.mjs';

const isTest = (path) => /(_test\.cc$|\.test\.(ts|mjs)$|\/testing\/|\/test\/|^test\/)/.test(path);
const isCpp = (path) => /\.(h|cc|cu|inl)$/.test(path);
const below = (path, ...folders) => folders.some((folder) => path.startsWith(`${folder}/`));
const isTypeScript = (path) =>
  path.endsWith('.ts') &&
  !isTest(path) &&
  below(path, 'gateway', 'native-cuda', 'proto', 'services');

const groups = [
  ['TypeScript', isTypeScript],
  [
    'C++ (engine, addon)',
    (path) => isCpp(path) && below(path, 'native-cuda/engine', 'native-cuda/addon'),
  ],
  ['- kernels/cpu', (path) => isCpp(path) && below(path, 'native-cuda/engine/kernels/cpu')],
  ['- kernels/cuda', (path) => isCpp(path) && below(path, 'native-cuda/engine/kernels/cuda')],
  ['TypeScript tests', (path) => /\.ts$/.test(path) && isTest(path)],
  ['C++ tests', (path) => isCpp(path) && below(path, 'native-cuda/test')],
  ['docs and READMEs', (path) => /\.md$/.test(path) && !below(path, 'test', 'examples')],
];

/** What is written once where a house is in order, and how it is spelled in each language. */
const facts = [
  ['a setting (weight decay)', /\bweight_?decay\b/i],
  ["a step's number (implicit accuracy)", /\bimplicit_?accuracy\b/i],
  [
    "a kernel's signature (group norm's backward)",
    /\bvoid [\w:]*group_norm_backward\(|\bstruct GroupNormBackward\b/,
  ],
];

function trackedFiles(root) {
  const listed = spawnSync('git', ['ls-files'], { cwd: root, encoding: 'utf8' });
  if (listed.status !== 0) throw new ScriptError(`${root}: expected a git checkout`);
  return listed.stdout
    .split('\n')
    .filter((path) => path !== '' && !/(^|\/)(gen|fixtures)\//.test(path))
    .filter((path) => existsSync(join(root, path)));
}

function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) =>
    '| ' +
    `${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(' | ')} ` +
    '|';
  const rule =
    '| ' +
    `${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} ` +
    '|';
  return [line(rows[0]), rule, ...rows.slice(1).map(line)].join('\n');
}

await main(() => {
  const { values } = parseArgs({ options: { root: { type: 'string', default: here } } });
  const root = resolve(values.root);
  const files = trackedFiles(root).map((path) => ({ path, text: '' }));
  const texts = (keep) =>
    files
      .filter(({ path }) => keep(path))
      .map(({ path }) => ({ path, text: readFileSync(join(root, path), 'utf8') }));
  const head = ['', 'files', 'lines', 'file med/p90/max', 'line med/p90/max', '> 100', '> 120'];
  console.log(table([head, ...groups.map(([name, keep]) => [name, ...lineFigures(texts(keep))])]));
  const { documented, exported } = exportFigures(texts(isTypeScript));
  const share = ((100 * documented) / exported).toFixed(0);
  console.log(`\ndocumented exports of TypeScript: ${documented} of ${exported} (${share} %)`);
  const sources = texts(
    (path) =>
      !isTest(path) &&
      /\.(ts|proto|h|cc|cu|js)$/.test(path) &&
      below(path, 'gateway', 'native-cuda', 'proto', 'services'),
  );
  for (const [name, pattern] of facts) {
    const places = wordFiles(sources, pattern);
    console.log(`\nfiles that write ${name}: ${places.length}`);
    for (const path of places) console.log(`  ${path}`);
  }
});
