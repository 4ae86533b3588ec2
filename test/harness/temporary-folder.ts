/**
 * All temporary files of a test run lie in one folder, which goes with the run: a test that dies,
 * or a process that was killed, leaves nothing behind.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

const prefix = 'spindle-test-';

/** For vitest's globalSetup: each project calls it in one process, the first makes the folder. */
export function setup(): (() => void) | undefined {
  if (basename(tmpdir()).startsWith(prefix)) return undefined;
  const folder = mkdtempSync(join(tmpdir(), prefix));
  const before = process.env['TMPDIR'];
  // Workers and their children inherit it.
  process.env['TMPDIR'] = folder;
  return () => {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
}
