/** `spindle-engine doctor` and `inspect`: what this machine and a model folder are. */
import type { Command } from 'commander';
import { totalmem } from 'node:os';
import { resolve } from 'node:path';
import { inspectFolder } from '../inspect/inspect.js';
import { defaultAddonPath, loadAddon } from '@spindle/native';
import { faster } from '../pipeline/precision.js';
import { describeGpus } from './gpus.js';
import {
  backendOption,
  isaOption,
  jsonOption,
  openEngine,
  threadsOption,
  type CliContext,
  type EngineFlags,
} from './options.js';

interface DoctorFlags extends EngineFlags {
  json: boolean;
}

export function addDoctor(program: Command, context: CliContext): void {
  program
    .command('doctor')
    .description(
      'say whether the engine loads here, what GPUs there are, what it runs on and which ' +
        'precision is faster',
    )
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(isaOption())
    .addOption(jsonOption())
    .action((flags: DoctorFlags) => doctor(flags, context));
}

async function doctor(flags: DoctorFlags, context: CliContext): Promise<void> {
  const addon = typeof context.addon === 'object' ? context.addon : loadAddon(context.addon);
  const gpus = addon.gpus();
  // First, as they may be why no engine can be opened.
  if (!flags.json) for (const line of describeGpus(gpus)) context.write(line);
  const engine = openEngine(context, flags);
  const seconds = await engine.measurePrecision();
  const precision = faster(seconds);
  const report = {
    node: process.version,
    addon: typeof context.addon === 'string' ? context.addon : defaultAddonPath(),
    memoryMib: Math.round(totalmem() / 2 ** 20),
    ...engine.info,
    gpus,
    stepSeconds: seconds,
    precision,
  };
  if (flags.json) {
    context.write(JSON.stringify(report));
    return;
  }
  context.write(`node ${report.node}, ${report.memoryMib} MiB of memory`);
  context.write(`engine ${report.version} at ${report.addon}`);
  context.write(
    `backend ${report.backend} (built: ${report.backends.join(', ')}) on ${report.cpu}, ` +
      `${report.isa}, ${report.threads} threads`,
  );
  context.write(
    `a small training step takes ${seconds.float32.toFixed(3)} s in float32 and ` +
      `${seconds.bfloat16.toFixed(3)} s in bfloat16: "auto" chooses ${precision}`,
  );
}

export function addInspect(program: Command, context: CliContext): void {
  program
    .command('inspect')
    .description('read a model folder and check its tensors without loading the weights')
    .argument('<dir>', 'pipeline or component folder')
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(isaOption())
    .addOption(jsonOption())
    .action((directory: string, flags: DoctorFlags) => {
      const report = inspectFolder(openEngine(context, flags), resolve(directory));
      if (flags.json) {
        context.write(JSON.stringify(report));
        return;
      }
      context.write(report.kind);
      for (const [name, count] of Object.entries(report.parameters))
        context.write(`${name}: ${count.toLocaleString('en')} parameters`);
      for (const [key, value] of Object.entries(report)) {
        if (typeof value === 'number' && value > 0) context.write(`${key}: ${value}`);
        if (typeof value === 'string' && value !== '' && key !== 'kind')
          context.write(`${key}: ${value}`);
      }
      for (const warning of report.warnings) context.warn(`warning: ${warning}`);
    });
}
