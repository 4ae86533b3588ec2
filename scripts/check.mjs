// `npm run check`: what has to hold before a change is proposed, beside the tests: types, lint,
// generated files.
import { spawnSync } from 'node:child_process';
import { main, phase, root, runQuietly, ScriptError } from './lib/phase.mjs';
import { prepare } from './lib/prepare.mjs';

const generated = ['proto/gen', 'docs/CONFIG.md', 'gateway/schema'];

function digest() {
  return spawnSync('sh', ['-c', `find ${generated.join(' ')} -type f | sort | xargs sha256sum`], {
    cwd: root,
    encoding: 'utf8',
  }).stdout;
}

await main(async () => {
  await prepare();
  await phase(
    'types of the tests',
    () =>
      void runQuietly(process.execPath, [
        'node_modules/typescript/bin/tsc',
        '-p',
        'tsconfig.test.json',
      ]),
  );
  await phase(
    'format',
    () =>
      void runQuietly(process.execPath, ['node_modules/prettier/bin/prettier.cjs', '--check', '.']),
  );
  await phase(
    'lint',
    () => void runQuietly(process.execPath, ['node_modules/eslint/bin/eslint.js', '.']),
  );
  await phase(
    'architecture',
    () =>
      void runQuietly(process.execPath, [
        'node_modules/vitest/vitest.mjs',
        'run',
        '--project',
        'architecture',
      ]),
  );
  await phase('generated files', () => {
    const before = digest();
    for (const workspace of ['@spindle/proto', '@spindle/gateway'])
      runQuietly('npm', ['run', '--silent', 'generate', '--if-present', '--workspace', workspace]);
    if (digest() !== before)
      throw new ScriptError(
        `generated files were not up to date and are now: commit ${generated.join(', ')}`,
      );
  });
});
