// `npm start`: from a bare clone to the demo. Needs Node and npm only; what else is missing is
// installed where this is allowed.
// `npm start -- --exit` (or CI=true) stops once the run has ended; `--config FILE` runs another
// config.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root, runAttached, ScriptError } from './lib/phase.mjs';
import { prepare } from './lib/prepare.mjs';
import { localBin } from './lib/system.mjs';

const help = `npm start [-- options]: installs and builds what is missing, starts all services, runs the demo.

  --exit              stop when the run has ended (also with CI=true); exit code 0 if it succeeded
  --config FILE       run this config instead of examples/scenes/run.yaml
  --artifacts DIR     where results go (default: ./artifacts)
  --http-port PORT    port of the status page on 127.0.0.1 (default: any free one)
  --prepare-only      install and build, start nothing
  --help              this text`;

await main(async () => {
  const started = performance.now();
  const { values } = parseArgs({
    options: {
      exit: { type: 'boolean', default: process.env.CI === 'true' },
      config: { type: 'string', default: 'examples/scenes/run.yaml' },
      artifacts: { type: 'string' },
      'http-port': { type: 'string' },
      'prepare-only': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(help);
    return 0;
  }
  const config = resolve(values.config);
  if (!existsSync(config))
    throw new ScriptError(`--config: expected a file, got ${config}, which does not exist`, 2);
  await prepare();
  if (values['prepare-only']) return 0;
  const args = [join(root, 'gateway/bin/spindle.js'), 'up', '--run', config];
  if (values.exit) args.push('--exit');
  if (values.artifacts !== undefined) args.push('--artifacts', resolve(values.artifacts));
  if (values['http-port'] !== undefined) args.push('--http-port', values['http-port']);
  const run = performance.now();
  const code = await runAttached(process.execPath, args, {
    env: { ...process.env, PATH: `${localBin}:${process.env.PATH ?? ''}:/usr/sbin` },
  });
  const minutes = (since) => ((performance.now() - since) / 60_000).toFixed(1);
  if (values.exit)
    console.log(`mesh and run: ${minutes(run)} min, everything: ${minutes(started)} min`);
  return code;
});
