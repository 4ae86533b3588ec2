import { Command, CommanderError } from 'commander';
import { toEngineError } from '@spindle/native';
import { addBench } from './bench.js';
import { addConvert } from './convert.js';
import { addDoctor, addInspect } from './doctor.js';
import type { CliContext } from './options.js';
import { addParity } from './parity.js';
import { addRandomModel } from './random-model.js';
import { addSample } from './sample.js';
import { addScore } from './score.js';

/** Exit codes: 0 done, 1 failed, 2 bad input (flags, files, models). */
export async function runCli(argv: readonly string[], context: CliContext): Promise<void> {
  const program = new Command('spindle')
    .description(
      "Spindle's engine from the command line: replay fixtures, time, draw, judge, inspect",
    )
    .showHelpAfterError('(see --help)')
    .configureOutput({
      writeOut: (text) => context.write(text.trimEnd()),
      writeErr: (text) => context.warn(text.trimEnd()),
    })
    .exitOverride();
  addParity(program, context);
  addBench(program, context);
  addSample(program, context);
  addScore(program, context);
  addDoctor(program, context);
  addInspect(program, context);
  addConvert(program, context);
  addRandomModel(program, context);
  // Sub-commands copy these settings when they are added, so they are applied again by hand.
  for (const command of program.commands) command.copyInheritedSettings(program);
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      context.setExitCode(thrown.exitCode === 0 ? 0 : 2);
      return;
    }
    const error = toEngineError(thrown);
    context.warn(`error: ${error.message}`);
    context.setExitCode(error.code === 'INVALID_ARGUMENT' || error.code === 'NOT_FOUND' ? 2 : 1);
  }
}
