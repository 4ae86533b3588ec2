// `npm test`: installs and builds what is missing, then runs every test of every language.
// `npm test -- --only ctest|vitest`, `npm test -- --sanitize` (native tests with AddressSanitizer and UBSan as well),
// `npm test -- <words>` (vitest files whose path has one of the words).
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ctestCounts, summarise, vitestCounts } from './lib/counts.mjs';
import { main, phase, root, runAttached, runQuietly, ScriptError } from './lib/phase.mjs';
import { prepare } from './lib/prepare.mjs';
import { findCommand, localBin } from './lib/system.mjs';

const results = join(root, '.cache', 'test');

async function vitest(words) {
  const report = join(results, 'vitest.json');
  rmSync(report, { force: true });
  const args = ['node_modules/vitest/vitest.mjs', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...words];
  const env = { ...process.env, PATH: `${localBin}:${process.env.PATH ?? ''}`, NO_COLOR: '1' };
  const exitCode = await runAttached(process.execPath, args, { env });
  const counts = existsSync(report) ? vitestCounts(JSON.parse(readFileSync(report, 'utf8'))) : { passed: 0, failed: 0 };
  return { name: 'vitest', exitCode, ...counts };
}

function ctest(name, buildDir) {
  return new Promise((done, fail) => {
    const command = findCommand(['ctest']);
    if (command === undefined) throw new ScriptError('ctest is missing: it comes with cmake');
    const child = spawn(command, ['--test-dir', buildDir, '--verbose', '--timeout', '1200'], { cwd: root });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text;
      });
    }
    child.once('error', fail);
    child.once('exit', (code) => {
      const exitCode = code ?? 1;
      const interesting = exitCode === 0 ? /^\s*\d+\/\d+ Test\s+#/ : /./;
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

await main(async () => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { only: { type: 'string' }, sanitize: { type: 'boolean', default: false } },
  });
  if (values.only !== undefined && !['ctest', 'vitest'].includes(values.only))
    throw new ScriptError(`--only: expected ctest or vitest, got ${values.only}`, 2);
  await prepare({ tests: true });
  mkdirSync(results, { recursive: true });
  const runners = [];
  if (values.only !== 'vitest' && positionals.length === 0) {
    await phase('ctest', async () => runners.push(await ctest('ctest', join(root, 'build/native'))));
    if (values.sanitize) {
      await phase('build with sanitizers', () => void runQuietly(process.execPath, ['scripts/build-native.mjs', '--sanitize']));
      await phase('ctest with sanitizers', async () => runners.push(await ctest('ctest with sanitizers', join(root, 'build/sanitize'))));
    }
  }
  if (values.only !== 'ctest') await phase('vitest', async () => runners.push(await vitest(positionals)));
  const { line, problems, ok } = summarise(runners);
  for (const problem of problems) console.error(`error: ${problem}`);
  console.log(line);
  return ok ? 0 : 1;
});
