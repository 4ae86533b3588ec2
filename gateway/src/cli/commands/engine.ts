/** Commands of the native engine: every argument goes through as it is, help included. */
import { spawn } from 'node:child_process';
import type { Command } from 'commander';
import { engineMain } from '../mesh/packages.js';

const commands: Record<string, string> = {
  sample: 'draw images from a model, outside any run',
  score: 'judge a folder of images',
  doctor: 'check this machine and say what is missing',
  parity: 'replay golden fixtures against the engine',
  bench: 'measure the engine',
  convert: 'turn single-file checkpoints and pickled weights into a folder that Spindle reads',
  'random-model': 'write a model folder with random weights, as released or reduced',
};

export function addEngine(program: Command): void {
  for (const [name, summary] of Object.entries(commands)) {
    program
      .command(name)
      .summary(summary)
      .description(summary)
      .helpOption(false)
      .allowUnknownOption()
      .allowExcessArguments()
      .argument('[arguments...]')
      .action(async (_given: string[], _options: unknown, command: Command) => {
        process.exitCode = await runProgram(engineMain(), [name, ...command.args]);
      });
  }
}

/** A program of another workspace in this terminal; its exit code. */
export function runProgram(main: string, args: string[]): Promise<number> {
  const child = spawn(process.execPath, [main, ...args], { stdio: 'inherit' });
  // The terminal sends Ctrl-C to both; the program decides how to end.
  const ignore = (): void => undefined;
  process.on('SIGINT', ignore);
  const terminate = (): void => void child.kill('SIGTERM');
  process.on('SIGTERM', terminate);
  return new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve(signal === null ? (code ?? 1) : 1));
  }).finally(() => {
    process.off('SIGINT', ignore);
    process.off('SIGTERM', terminate);
  });
}
