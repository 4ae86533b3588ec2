/** A command of the native engine as a part of another one: what it says is ours to print. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { SpindleError } from '@spindle/kit';
import { engineMain } from './mesh/packages.js';

/** Its notes go to stderr; a failure is an error with its words. */
export async function engineWork(args: readonly string[]): Promise<void> {
  try {
    const { stderr } = await promisify(execFile)(process.execPath, [engineMain(), ...args]);
    process.stderr.write(stderr);
  } catch (thrown) {
    const said =
      thrown instanceof Error && 'stderr' in thrown
        ? String(thrown.stderr)
            .trim()
            .replace(/^(error|spindle): /, '')
        : '';
    throw new SpindleError('INVALID_ARGUMENT', said === '' ? String(thrown) : said, {
      cause: thrown,
    });
  }
}
