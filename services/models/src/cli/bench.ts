/** `spindle-engine bench`: one line of the same keys as the PyTorch peer's. */
import { Option, type Command } from 'commander';
import { type NativePrecision } from '@spindle/native';
import {
  backendOption,
  integer,
  isaOption,
  jsonOption,
  openEngine,
  precisionOption,
  threadsOption,
  type CliContext,
  type EngineFlags,
} from './options.js';

interface BenchFlags extends EngineFlags {
  task: string;
  model: string;
  precision: NativePrecision;
  batch: number;
  steps: number;
  repeat: number;
  warmup: number;
  checkpointing: boolean;
  profile: boolean;
  json: boolean;
}

export function addBench(program: Command, context: CliContext): void {
  program
    .command('bench')
    .description('time one task')
    .addOption(
      new Option('--task <name>', 'what to time')
        .choices(['unet_forward', 'spin_step', 'sample', 'vae_encode', 'vae_decode'])
        .makeOptionMandatory(),
    )
    .requiredOption(
      '--model <dir>',
      'pipeline folder, or random weights of a known configuration: sd15, sdxl, small',
    )
    .addOption(precisionOption())
    .addOption(backendOption())
    .option('--batch <n>', 'images or pairs per call', integer(1), 1)
    .option('--steps <n>', 'denoising steps of the task sample', integer(1), 20)
    .option('--repeat <n>', 'timed calls', integer(1), 5)
    .option('--warmup <n>', 'calls before the timed ones', integer(0), 2)
    .option(
      '--checkpointing',
      'of the task spin_step: activations are computed again in backward',
      false,
    )
    .option(
      '--profile',
      "time, rates and work of every kernel, beside the machine's measured peak",
      false,
    )
    .addOption(threadsOption())
    .addOption(isaOption())
    .addOption(jsonOption())
    .action((flags: BenchFlags) => bench(flags, context));
}

async function bench(flags: BenchFlags, context: CliContext): Promise<void> {
  const { task, model, precision, batch, steps, repeat, warmup, checkpointing, profile } = flags;
  const { values, tables } = await openEngine(context, flags).bench({
    task,
    model,
    precision,
    batch,
    steps,
    repeat,
    warmup,
    checkpointing,
    profile,
  });
  if (flags.json) {
    context.write(JSON.stringify(values));
    return;
  }
  for (const [key, value] of Object.entries(values))
    if (typeof value !== 'object') context.write(`${key}: ${value}`);
  if (tables !== '') context.write(`\n${tables.trimEnd()}`);
}
