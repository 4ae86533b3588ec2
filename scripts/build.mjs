// Builds what is not up to date: `node scripts/build.mjs [--tests]` (TypeScript into dist/, the
// native engine into build/native).
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { main, root, runAttached, runQuietly, ScriptError } from './lib/phase.mjs';
import { join } from 'node:path';

export async function build({ tests = false } = {}) {
  runQuietly(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b']);
  console.log('building what has changed (the engine takes minutes the first time)');
  // A process of its own: its output is worth seeing while a compiler works for minutes.
  const code = await runAttached(process.execPath, [
    'scripts/build-native.mjs',
    ...(tests ? ['--tests'] : []),
  ]);
  if (code !== 0) throw new ScriptError('the native engine could not be built (see above)');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    const { values } = parseArgs({ options: { tests: { type: 'boolean', default: false } } });
    await build(values);
  });
}
