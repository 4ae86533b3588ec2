import { ensureError, type ErrorCode, version } from '@spindle/kit';
import { Command, CommanderError } from 'commander';
import { addCompare } from './commands/compare.js';
import { addData } from './commands/data.js';
import { addEngine } from './commands/engine.js';
import { addExport } from './commands/export.js';
import { addInspect } from './commands/inspect.js';
import { addPage } from './commands/page.js';
import { addRun } from './commands/run.js';
import { addSteer } from './commands/steer.js';
import { addToken } from './commands/token.js';
import { addUp } from './commands/up.js';
import type { Environment } from './context.js';
import { exitCodes } from './exit-codes.js';
import { tell } from './output.js';

/** What the person can mend: by other input, or by making room. */
const badInput: readonly ErrorCode[] = [
  'INVALID_ARGUMENT',
  'UNAUTHENTICATED',
  'PERMISSION_DENIED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'FAILED_PRECONDITION',
  'RESOURCE_EXHAUSTED',
];

export function buildProgram(environment: Environment): Command {
  const program = new Command('spindle')
    .description('Fine-tunes text-to-image diffusion models by self-play (SPIN-Diffusion).')
    .version(version)
    .exitOverride()
    .showHelpAfterError(false)
    .addHelpText(
      'after',
      '\nStart with: npx spindle up, then npx spindle run CONFIG --watch.\nExit codes: 0 ' +
        'done, 1 the run or the work failed, 2 bad input (one sentence on stderr),\n3 the run ' +
        'was paused, 4 no mesh or gateway answers.',
    );
  addUp(program, environment);
  addPage(program, environment);
  addToken(program);
  addRun(program, environment);
  addInspect(program, environment);
  addSteer(program, environment);
  addExport(program, environment);
  addCompare(program, environment);
  addData(program);
  addEngine(program);
  for (const command of program.commands) {
    command.exitOverride();
    for (const inner of command.commands) inner.exitOverride();
  }
  return program;
}

/** Runs one command line; the exit code. One sentence on stderr when it is not 0. */
export async function runCommandLine(args: string[], environment: Environment): Promise<number> {
  try {
    await buildProgram(environment).parseAsync(args, { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      // Help and version have been printed; commander has named what it did not understand.
      return thrown.exitCode === 0 ? exitCodes.done : exitCodes.badInput;
    }
    const error = ensureError(thrown);
    tell(`spindle: ${error.message}`);
    if (error.code === 'UNAVAILABLE') return exitCodes.unreachable;
    return badInput.includes(error.code) ? exitCodes.badInput : exitCodes.failed;
  }
}
