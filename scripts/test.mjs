// `npm test`: installs and builds what is missing, then runs every test of every language.
// `npm test -- --only ctest|vitest`, `npm test -- <words>` (vitest files whose path has one of the
// words), `npm test -- --cuda` (fetches a CUDA toolkit if there is none, as CI does). The engine's
// tests are run in another build with `--sanitize address` (AddressSanitizer and UBSan),
// `--sanitize thread` (ThreadSanitizer, the programs about threads) or `--clang` (clang++).
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { buildFolder, variantOf } from './build-native.mjs';
import { ensureToolkit } from './cuda/toolkit.mjs';
import { ctestCounts, cudaCounts, summarise, vitestCounts } from './lib/counts.mjs';
import { main, phase, root, runAttached, runQuietly, ScriptError } from './lib/phase.mjs';
import { prepare } from './lib/prepare.mjs';
import { findCommand, localBin } from './lib/system.mjs';

const results = join(root, '.cache', 'test');

async function vitest(words) {
  const report = join(results, 'vitest.json');
  rmSync(report, { force: true });
  const args = [
    'node_modules/vitest/vitest.mjs',
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...words,
  ];
  const env = { ...process.env, PATH: `${localBin}:${process.env.PATH ?? ''}`, NO_COLOR: '1' };
  const exitCode = await runAttached(process.execPath, args, { env });
  const counts = existsSync(report)
    ? vitestCounts(JSON.parse(readFileSync(report, 'utf8')))
    : { passed: 0, failed: 0 };
  return { name: 'vitest', exitCode, ...counts };
}

/**
 * What stands before ctest. ThreadSanitizer needs its addresses free, and newer systems' more than
 * 28 random bits of an address take them. Only root changes that; everybody may do without.
 */
function withoutRandomAddresses() {
  const file = '/proc/sys/vm/mmap_rnd_bits';
  if (!existsSync(file) || Number(readFileSync(file, 'utf8')) <= 28) return [];
  const command = ['setarch', '-R'];
  const works = spawnSync(command[0], [...command.slice(1), 'true'], { stdio: 'ignore' });
  if (works.status === 0) return command;
  console.error(
    `ThreadSanitizer may not start: ${file} is over 28 and \`setarch -R\` is not permitted`,
  );
  return [];
}

function ctest(name, buildDir, before = []) {
  return new Promise((done, fail) => {
    const command = findCommand(['ctest']);
    if (command === undefined) throw new ScriptError('ctest is missing: it comes with cmake');
    const [file, ...args] = [...before, command];
    const child = spawn(
      file,
      [
        ...args,
        '--test-dir',
        buildDir,
        '--parallel',
        String(availableParallelism()),
        '--verbose',
        '--timeout',
        '1200',
      ],
      {
        cwd: root,
      },
    );
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text;
      });
    }
    child.once('error', fail);
    child.once('exit', (code) => {
      const exitCode = code ?? 1;
      const interesting = exitCode === 0 ? /^\s*\d+\/\d+ Test\s+#|^\d+: cuda: / : /./;
      console.log(
        output
          .split('\n')
          .filter((line) => interesting.test(line))
          .join('\n'),
      );
      done({ name, exitCode, ...ctestCounts(output) });
    });
  });
}

/** Gets a compiler for the CUDA sources; without one they are not checked, and that is said. */
async function cudaToolkit() {
  // One architecture takes a quarter of the time of all, and has all of the code.
  process.env.SPINDLE_CUDA_ARCHITECTURES ??= '90a';
  try {
    await ensureToolkit();
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error;
    console.error(`cuda: no toolkit: ${error.message}`);
  }
}

/**
 * The build has compiled and linked all of them, or failed; nothing is counted where it had no
 * toolkit.
 */
function cudaSources() {
  const { sources, built } = cudaCounts(join(root, 'native-cuda'), join(root, 'build/native'));
  if (built) return { name: 'cuda sources', exitCode: 0, passed: sources, failed: 0 };
  console.log(`cuda: no toolkit, ${sources} sources not compiled (npm test -- --cuda fetches one)`);
  return undefined;
}

/** What `npm test` takes on its command line. */
export const testOptions = {
  only: { type: 'string' },
  sanitize: { type: 'string' },
  clang: { type: 'boolean', default: false },
  cuda: { type: 'boolean', default: process.env.CI === 'true' },
};

/** Refuses what cannot all be meant; returns which build the engine's tests are run in. */
export function chosenBuild({ only, sanitize, clang }, words) {
  if (only !== undefined && !['ctest', 'vitest'].includes(only)) {
    throw new ScriptError(`--only: expected ctest or vitest, got ${only}`, 2);
  }
  const variant = variantOf({ sanitize, clang });
  const [option] = [
    ...(only === 'ctest' ? ['--only ctest'] : []),
    ...(variant === 'native' ? [] : [clang ? '--clang' : `--sanitize ${sanitize}`]),
  ];
  if (words.length > 0 && option !== undefined) {
    throw new ScriptError(`${option}: words choose files of vitest alone, got ${words[0]}`, 2);
  }
  if (only === 'vitest' && variant !== 'native') {
    throw new ScriptError(`--only vitest: ${option} is about the engine's tests`, 2);
  }
  return variant;
}

/** The engine's tests in `variant` of the build; the plain one is built already. */
async function nativeTests(variant) {
  const buildDir = buildFolder(variant);
  if (variant === 'native') return phase('ctest', () => ctest('ctest', buildDir));
  const option = variant === 'clang' ? ['--clang', '--tests'] : ['--sanitize', variant];
  await phase(
    `build, ${variant}`,
    () => void runQuietly(process.execPath, ['scripts/build-native.mjs', ...option]),
  );
  const before = variant === 'thread' ? withoutRandomAddresses() : [];
  return phase(`ctest, ${variant}`, () => ctest(`ctest, ${variant}`, buildDir, before));
}

/** Installs, builds and runs what was asked for; one entry a runner, as `summarise` takes them. */
export async function runTests(options, words = []) {
  const variant = chosenBuild(options, words);
  const { only, cuda } = options;
  const plain = variant === 'native';
  if (cuda && plain) await phase('CUDA toolkit', cudaToolkit);
  const built = plain || only !== 'ctest';
  await prepare({ tests: built, built });
  mkdirSync(results, { recursive: true });
  const runners = [];
  if (only !== 'vitest' && words.length === 0) {
    const sources = plain ? cudaSources() : undefined;
    if (sources !== undefined) runners.push(sources);
    runners.push(await nativeTests(variant));
  }
  if (only !== 'ctest') await phase('vitest', async () => runners.push(await vitest(words)));
  return runners;
}

/** Prints what went wrong and the closing line; returns the exit code. */
export function conclude(runners) {
  const { line, problems, ok } = summarise(runners);
  for (const problem of problems) console.error(`error: ${problem}`);
  console.log(line);
  return ok ? 0 : 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      allowNegative: true,
      options: testOptions,
    });
    return conclude(await runTests(values, positionals));
  });
}
