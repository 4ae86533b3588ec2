// `npm test`: installs and builds what is missing, then runs every test of every language.
// `npm test -- --only ctest|vitest`, `npm test -- --sanitize` (native tests with AddressSanitizer
// and UBSan as well),
// `npm test -- <words>` (vitest files whose path has one of the words), `npm test -- --cuda`
// (fetches a CUDA toolkit if there is none, as CI does).
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
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

function ctest(name, buildDir) {
  return new Promise((done, fail) => {
    const command = findCommand(['ctest']);
    if (command === undefined) throw new ScriptError('ctest is missing: it comes with cmake');
    const child = spawn(
      command,
      [
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
  sanitize: { type: 'boolean', default: false },
  cuda: { type: 'boolean', default: process.env.CI === 'true' },
};

/** Installs, builds and runs what was asked for; one entry a runner, as `summarise` takes them. */
export async function runTests({ only, sanitize, cuda }, words = []) {
  if (only !== undefined && !['ctest', 'vitest'].includes(only)) {
    throw new ScriptError(`--only: expected ctest or vitest, got ${only}`, 2);
  }
  if (cuda) await phase('CUDA toolkit', cudaToolkit);
  await prepare({ tests: true });
  mkdirSync(results, { recursive: true });
  const runners = [];
  const native = only !== 'vitest' && words.length === 0;
  const sources = native ? cudaSources() : undefined;
  if (sources !== undefined) runners.push(sources);
  if (native) {
    await phase('ctest', async () =>
      runners.push(await ctest('ctest', join(root, 'build/native'))),
    );
    if (sanitize) {
      await phase(
        'build with sanitizers',
        () => void runQuietly(process.execPath, ['scripts/build-native.mjs', '--sanitize']),
      );
      await phase('ctest with sanitizers', async () =>
        runners.push(await ctest('ctest with sanitizers', join(root, 'build/sanitize'))),
      );
    }
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
