// `npm run fuzz [-- --seconds N --seed N --only NAME]`: every reader of files under fuzz, 60 s
// each. Readers in TypeScript get changed inputs from a seeded loop; the engine's are built with
// AddressSanitizer and UBSan, on libFuzzer where clang++ is there, else on a driver of our own.
// What fails a reader is kept in build/fuzz-failures; docs/DEBUGGING.md says what to do with it.
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { buildNative } from './build-native.mjs';
import { main, root, runAttached, ScriptError } from './lib/phase.mjs';
import { prepare } from './lib/prepare.mjs';

const modules = ['services/kit', 'services/data', 'services/models', 'gateway'].map((folder) =>
  join(root, folder, 'src/testing/fuzz/targets.ts'),
);
const loop = join(root, 'services/kit/src/testing/fuzz/main.ts');
const failures = join(root, 'build/fuzz-failures');
const nativeFolder = join(root, 'native-cuda/fuzz');

/** Names of the engine's programs, "json_fuzz". */
function programs() {
  return readdirSync(nativeFolder)
    .filter((name) => name.endsWith('_fuzz.cc'))
    .map((name) => name.slice(0, -'.cc'.length));
}

async function fuzzTypeScript({ seconds, seed, only }) {
  let failed = 0;
  for (const module of modules) {
    const args = ['--conditions=@spindle/source', '--import', 'tsx', loop, module];
    args.push('--failures', failures, '--seconds', seconds, '--seed', seed);
    if (only !== undefined) args.push('--only', only);
    if ((await runAttached(process.execPath, args, { cwd: root })) !== 0) failed++;
  }
  return failed;
}

async function fuzzNative({ seconds, seed, only }) {
  const chosen = programs().filter((name) => only === undefined || name === `${only}_fuzz`);
  if (chosen.length === 0) return 0;
  const buildDir = await buildNative({ fuzz: true });
  let failed = 0;
  for (const name of chosen) {
    const corpus = join(nativeFolder, 'corpus', name);
    // What libFuzzer finds of interest goes into the first folder, which is not the committed one.
    const found = join(buildDir, 'corpus', name);
    mkdirSync(found, { recursive: true });
    const args = [`-max_total_time=${seconds}`, `-seed=${seed}`, '-rss_limit_mb=2048'];
    args.push(`-artifact_prefix=${join(failures, name)}-`, found, corpus);
    console.log(`${name}:`);
    if ((await runAttached(join(buildDir, name), args, { cwd: root })) !== 0) failed++;
  }
  return failed;
}

await main(async () => {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string', default: '1' },
      only: { type: 'string' },
    },
  });
  for (const name of ['seconds', 'seed'])
    if (!/^\d+$/.test(values[name]))
      throw new ScriptError(`--${name}: expected a whole number, got ${values[name]}`, 2);
  await prepare();
  mkdirSync(failures, { recursive: true });
  const failed = (await fuzzTypeScript(values)) + (await fuzzNative(values));
  if (failed > 0) console.log(`inputs that failed a reader: ${relative(root, failures)}`);
  else if (existsSync(failures)) console.log('every input was read or refused');
  return failed === 0 ? 0 : 1;
});
