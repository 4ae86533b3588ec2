/** Copies a model out of a run, as a pipeline that diffusers and `spindle sample` load. Works with the mesh down. */
import { cp, mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { SpindleError } from '@spindle/kit';
import { InvalidArgumentError, type Command } from 'commander';
import { isBaseline } from '../../domain/plan.js';
import { unetFolder } from '../../orchestrator/export.js';
import { parseRecord } from '../../orchestrator/record.js';
import { artifactsFolder, withCommonOptions, type CommonOptions, type Environment } from '../context.js';

interface ExportOptions extends CommonOptions {
  iteration: string;
  to: string;
  unetOnly?: boolean;
}

export function addExport(program: Command, environment: Environment): void {
  withCommonOptions(
    program
      .command('export')
      .summary("copy an iteration's model out of a run")
      .description(
        "Writes a complete pipeline folder: the iteration's unet/ with the base model's other parts. With --unet-only just the U-Net.",
      )
      .argument('<run>', 'run id')
      .requiredOption('--iteration <k>', 'iteration number, "best", or "sft" or "dpo" for a baseline', parseIteration)
      .requiredOption('--to <dir>', 'folder to write; must be empty or absent')
      .option('--unet-only', 'write config.json and the weights only'),
  ).action(async (runId: string, options: ExportOptions) => {
    const directory = join(artifactsFolder(options, environment), runId);
    const file = join(directory, 'run.json');
    const json = await readFile(file, 'utf8').catch(() => {
      throw new SpindleError('INVALID_ARGUMENT', `no run is named "${runId}" (there is no ${file}).`);
    });
    const { config, state } = parseRecord(json, file);
    const model = modelName(options.iteration, state.bestModel);
    const unet = join(directory, unetFolder(model));
    if (model === 'base' || !(await stat(unet).catch(() => null))) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `run "${runId}": expected a trained model for --iteration ${options.iteration}, got none yet.`,
      );
    }
    const to = resolve(options.to);
    if ((await readdir(to).catch(() => [])).length > 0)
      throw new SpindleError('INVALID_ARGUMENT', `--to: expected an empty or absent folder, got ${to}, which has files in it.`);
    const pipeline = options.unetOnly ? null : config.model;
    await copyModel(pipeline, unet, to).catch(async (error: unknown) => {
      // Half a model is worse than none.
      await rm(to, { recursive: true, force: true });
      throw error;
    });
    process.stdout.write(`${options.json ? JSON.stringify({ runId, model, directory: to }) : to}\n`);
  });
}

/** The U-Net into `to`, or with a pipeline into its unet/, beside everything else of the pipeline. */
async function copyModel(pipeline: string | null, unet: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  if (pipeline === null) {
    await cp(unet, to, { recursive: true });
    return;
  }
  const skip = join(pipeline, 'unet');
  await cp(pipeline, to, {
    recursive: true,
    dereference: true,
    filter: (source) => source !== skip && !source.startsWith(`${skip}/`),
  });
  await cp(unet, join(to, 'unet'), { recursive: true });
}

function modelName(iteration: string, best: string): string {
  if (iteration === 'best') return best === '' ? 'base' : best;
  return isBaseline(iteration) ? iteration : `spin${iteration}`;
}

function parseIteration(value: string): string {
  if (!/^([1-9]\d*|best|sft|dpo)$/.test(value)) throw new InvalidArgumentError('expected a number from 1, "best", "sft" or "dpo".');
  return value;
}
