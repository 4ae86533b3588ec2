// Commands and their times, as the scripts print them.
import { spawn, spawnSync } from 'node:child_process';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');

/** A failure that the user can do something about: one sentence and an exit code. */
export class ScriptError extends Error {
  constructor(message, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}

/**
 * Runs `work` and prints how long it took; what returns false was nothing to do and is not
 * mentioned.
 */
export async function phase(name, work) {
  const started = performance.now();
  const result = await work();
  if (result !== false)
    console.log(`${name}: ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return result;
}

/** Runs a command to its end; its output is shown only when it fails. */
export function runQuietly(command, args, options = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...options,
  });
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
    throw new ScriptError(
      `${[command, ...args].join(' ')} ` +
        `failed${result.error ? `: ${result.error.message}` : ` (exit code ${result.status ?? result.signal})`}`,
    );
  }
  return result.stdout;
}

/**
 * Runs a command on this terminal; resolves to its exit code. Ctrl-C reaches it through the
 * terminal, SIGTERM through us.
 */
export function runAttached(command, args, options = {}) {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { cwd: root, stdio: 'inherit', ...options });
    const ignore = () => undefined;
    const pass = () => child.kill('SIGTERM');
    process.on('SIGINT', ignore);
    process.on('SIGTERM', pass);
    const stopListening = () => {
      process.off('SIGINT', ignore);
      process.off('SIGTERM', pass);
    };
    child.once('error', (error) => {
      stopListening();
      fail(new ScriptError(`${command} could not be started: ${error.message}`));
    });
    child.once('exit', (code, signal) => {
      stopListening();
      done(code ?? (signal === 'SIGINT' ? 130 : 1));
    });
  });
}

/** A script's main function: a known failure is one line on stderr. */
export async function main(work) {
  try {
    process.exitCode = (await work()) ?? 0;
  } catch (error) {
    const known = error instanceof ScriptError || error?.code?.startsWith?.('ERR_PARSE_ARGS');
    console.error(known ? `error: ${error.message}` : error);
    process.exitCode = error instanceof ScriptError ? error.exitCode : known ? 2 : 1;
  }
}
