import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { EngineError } from './errors.js';
import type { NativeAddon } from './native.js';

/**
 * Where `npm run build` leaves the addon; this file lies two levels below the project's root, as
 * source and as build output.
 */
export function defaultAddonPath(): string {
  return fileURLToPath(new URL('../../build/native/spindle.node', import.meta.url));
}

/** Loads the addon; FAILED_PRECONDITION says how to build it where it is missing. */
export function loadAddon(path: string = defaultAddonPath()): NativeAddon {
  if (!existsSync(path)) {
    throw new EngineError(
      'FAILED_PRECONDITION',
      `${path}: expected the native engine, got no such file; run \`npm run build\` in the ` +
        `project's root folder`,
    );
  }
  try {
    return createRequire(import.meta.url)(path) as NativeAddon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError(
      'FAILED_PRECONDITION',
      `${path}: the native engine does not load (${reason}); rebuild it with \`npm run build\``,
      { cause },
    );
  }
}
