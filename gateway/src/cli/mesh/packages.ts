/** Where the other workspaces' programs lie; found as packages, never by path between folders. */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { SpindleError } from '@spindle/kit';

const require = createRequire(import.meta.url);

/** The compiled main module of a service. */
export function serviceMain(
  service: 'sampler' | 'scorer' | 'trainer' | 'evaluator' | 'gateway',
): string {
  // Two folders below the workspace in src/ and in dist/.
  const folder =
    service === 'gateway'
      ? fileURLToPath(new URL('../../..', import.meta.url))
      : packageFolder(`@spindle/${service}`);
  return built(join(folder, 'dist', 'main.js'));
}

/** The engine's own command. */
export function engineMain(): string {
  return built(join(packageFolder('@spindle/models'), 'dist', 'cli', 'main.js'));
}

/** The program behind `spindle data inspect`. */
export function inspectMain(): string {
  return built(join(packageFolder('@spindle/sampler'), 'dist', 'inspect', 'main.js'));
}

/** The programs behind `spindle run --dry-run --probe`. */
export function probeMain(service: 'sampler' | 'trainer'): string {
  return built(join(packageFolder(`@spindle/${service}`), 'dist', 'probe', 'main.js'));
}

function packageFolder(name: string): string {
  for (const folder of require.resolve.paths(name) ?? []) {
    const manifest = join(folder, name, 'package.json');
    if (existsSync(manifest)) return dirname(manifest);
  }
  throw new SpindleError(
    'FAILED_PRECONDITION',
    `${name}: expected the package to be installed, found it nowhere; run "npm install" in ` +
      `the project's root folder.`,
  );
}

function built(file: string): string {
  if (!existsSync(file))
    throw new SpindleError(
      'FAILED_PRECONDITION',
      `${file} does not exist; run "npm run build" in the project's root folder.`,
    );
  return file;
}
