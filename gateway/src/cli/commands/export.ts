/**
 * Copies a model out of a run, as a pipeline that diffusers and `spindle sample` load. Works with
 * the mesh down.
 */
import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { ensureError, SpindleError } from '@spindle/kit';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { modelName, parseModel, spin, type Model } from '../../domain/model.js';
import { adapterFile, unetFolder } from '../../orchestrator/export.js';
import { parseRecord, type RunRecord } from '../../orchestrator/record.js';
import type { RunConfig } from '../../config/schema.js';
import { configFile, modelCard } from '../../model-card/model-card.js';
import { readCardReport, type CardReport } from '../../model-card/report.js';
import { openAsFolder, copyParts } from '../copy-parts.js';
import { engineWork } from '../engine-work.js';
import {
  artifactsFolder,
  runArgument,
  withCommonOptions,
  type CommonOptions,
  type Environment,
} from '../context.js';
import { findRunFolder } from '../run-id.js';
import { print, printJson } from '../output.js';

interface ExportOptions extends CommonOptions {
  iteration: string;
  to?: string;
  singleFile?: string;
  dtype?: string;
  loraFormat: 'diffusers' | 'kohya';
  unetOnly?: boolean;
  followLinks?: boolean;
}

export function addExport(program: Command, environment: Environment): void {
  withCommonOptions(
    program
      .command('export')
      .summary("copy an iteration's model out of a run")
      .description(
        "Writes a complete pipeline folder: the iteration's unet/ with the base model's other " +
          'parts. With --unet-only just the U-Net. A model card (README.md) and all settings ' +
          '(spindle-config.json) lie beside it. With --single-file (beside --to or instead of ' +
          'it) one checkpoint that A1111, Forge and ComfyUI open.',
      )
      .argument('<run>', runArgument)
      .requiredOption(
        '--iteration <k>',
        'iteration number, "best", or "sft" or "dpo" for a baseline',
        parseIteration,
      )
      .option('--to <dir>', 'folder to write; must be empty or absent')
      .option(
        '--single-file <file>',
        'write U-Net, VAE and text encoders as one .safetensors with the original names',
      )
      .addOption(
        new Option(
          '--dtype <type>',
          'type of the numbers in --single-file and in a LoRA of kohya; as they are unless told',
        ).choices(['float32', 'float16', 'bfloat16']),
      )
      .addOption(
        new Option(
          '--lora-format <format>',
          "names in the LoRA file: diffusers', or kohya's for A1111, Forge and ComfyUI",
        )
          .choices(['diffusers', 'kohya'])
          .default('diffusers'),
      )
      .option('--unet-only', 'write config.json and the weights only')
      .option('--follow-links', "also copy what links in the model's folder lead to outside of it"),
  ).action(async (named: string, options: ExportOptions) => {
    const runId = await findRunFolder(artifactsFolder(options, environment), named);
    const directory = join(artifactsFolder(options, environment), runId);
    const recordFile = join(directory, 'run.json');
    const json = await readFile(recordFile, 'utf8').catch(() => {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `no run is named "${runId}" (there is no ${recordFile}).`,
      );
    });
    const record = parseRecord(json, recordFile);
    const { config, state } = record;
    const chosen = chooseModel(options.iteration, state.bestModel);
    const unet = chosen && join(directory, unetFolder(chosen));
    if (!chosen || !unet || !(await stat(unet).catch(() => null)))
      throw await noModel(record, options.iteration, directory);
    const model = modelName(chosen);
    const adapters = state.training[model]?.unet?.adapter !== undefined;
    checkOptions(options, adapters);
    const to = options.to === undefined ? undefined : resolve(options.to);
    const file = options.singleFile === undefined ? undefined : resolve(options.singleFile);
    if (to !== undefined && (await readdir(to).catch(() => [])).length > 0)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `--to: expected an empty or absent folder, got ${to}, which has files in it.`,
      );
    const dtype = options.dtype === undefined ? [] : ['--dtype', options.dtype];
    if (file !== undefined)
      await engineWork(
        ['convert', config.model, '--single-file', '--unet', unet, '--to', file].concat(dtype),
      );
    if (to !== undefined) {
      const pipeline = options.unetOnly ? null : config.model;
      const card = await cardOf(record, chosen, directory, pipeline !== null);
      const { followLinks = false } = options;
      await copyModel({ pipeline, unet, to, adapters, followLinks })
        .then(() => writeCard(to, card, config))
        .then(async () => {
          if (options.loraFormat === 'kohya')
            await renameAdapters(to, { unet, name: `${runId}-${model}.safetensors`, dtype });
        })
        .catch(async (error: unknown) => {
          // Half a model is worse than none.
          await rm(to, { recursive: true, force: true });
          throw error;
        });
    }
    if (options.json) printJson(JSON.stringify({ runId, model, directory: to, singleFile: file }));
    else for (const path of [to, file]) if (path !== undefined) print(path);
  });
}

/** What there is instead of what --iteration names. */
async function noModel(
  { runId, state }: RunRecord,
  iteration: string,
  directory: string,
): Promise<SpindleError> {
  const trained: string[] = [];
  const candidates = [
    ...['sft', 'dpo'].map((kind) => ({ kind }) as Model),
    ...Array.from({ length: state.plan.iterations }, (_, k) => spin(k + 1)),
  ];
  for (const model of candidates) {
    const there = await stat(join(directory, unetFolder(model))).catch(() => null);
    if (there) trained.push(model.kind === 'spin' ? modelName(model).slice(4) : model.kind);
  }
  const has = trained.length === 0 ? 'no trained model yet' : trained.join(', ');
  const asked = `run "${runId}": --iteration ${iteration}: expected a trained model`;
  return new SpindleError(
    'INVALID_ARGUMENT',
    iteration === 'best' && state.bestModel === 'base'
      ? `${asked}, but no iteration beats the base: keep the base model, or name one of ${has}.`
      : `${asked}, got none; the run has ${has}.`,
  );
}

function checkOptions(options: ExportOptions, adapters: boolean): void {
  const refuse = (message: string): never => {
    throw new SpindleError('INVALID_ARGUMENT', message);
  };
  const { to, singleFile, dtype, loraFormat } = options;
  if (to === undefined && singleFile === undefined)
    refuse('--to: expected a folder to write, or a file in --single-file, got neither.');
  if (singleFile !== undefined && !singleFile.endsWith('.safetensors'))
    refuse(`--single-file: expected a name that ends in .safetensors, got ${singleFile}.`);
  if (singleFile !== undefined && existsSync(singleFile))
    refuse(`--single-file: expected a file that does not exist, got ${singleFile}.`);
  if (loraFormat === 'kohya' && !adapters)
    refuse('--lora-format: expected a run that trains LoRA (train.lora), got one that does not.');
  if (loraFormat === 'kohya' && to === undefined)
    refuse('--lora-format: expected a folder in --to for the LoRA file, got none.');
  if (dtype !== undefined && singleFile === undefined && loraFormat !== 'kohya')
    refuse(`--dtype: expected --single-file or --lora-format kohya beside it, got ${dtype} alone.`);
}

/** diffusers' file gives way to one with kohya's names, whose own name tools show. */
async function renameAdapters(
  to: string,
  { unet, name, dtype }: { unet: string; name: string; dtype: readonly string[] },
): Promise<void> {
  const own = join(to, adapterFile);
  await engineWork(
    ['convert', own, '--lora-format', 'kohya', '--like', unet, '--to', join(to, name)].concat(
      dtype,
    ),
  );
  await rm(own);
}

/**
 * The model card and every setting; a pipeline's own README is about the base model and makes way.
 */
async function writeCard(to: string, card: string, config: RunConfig): Promise<void> {
  await writeFile(join(to, 'README.md'), card);
  await writeFile(join(to, configFile), `${JSON.stringify(config, null, 2)}\n`);
}

/**
 * With the report's intervals and judges where there is one; before that, with what the run knows
 * so far.
 */
async function cardOf(
  record: RunRecord,
  model: Model,
  directory: string,
  whole: boolean,
): Promise<string> {
  const { runId, config, resolution, state } = record;
  const text = await readFile(join(directory, 'report.json'), 'utf8').catch(() => null);
  let report: CardReport | null = null;
  const notes: string[] = [];
  try {
    if (text !== null) report = readCardReport(text, 'report.json');
  } catch (thrown) {
    // A model is worth more than its card: what the report would have added is left out, and said
    // to be.
    notes.push(`Without the report's intervals: ${ensureError(thrown).message}`);
  }
  const models =
    report?.models ??
    state.results.map(({ model: name, metrics }) => ({
      name,
      metrics: Object.fromEntries(
        metrics.map((s) => [
          s.metric,
          {
            ...{
              mean: s.mean,
              median: s.median,
              standard_error: s.standardError,
              win_rate: s.winRate,
              n: s.n,
            },
            ...{ difference_low: s.differenceLow, difference_high: s.differenceHigh },
          },
        ]),
      ),
    }));
  const { plan } = state;
  const warnings = [...state.warnings, ...notes];
  return modelCard({
    runId,
    model,
    config,
    plan,
    resolution,
    whole,
    models,
    judges: report?.judges ?? {},
    warnings,
  });
}

/**
 * The U-Net into `to`, or with a pipeline into its unet/, beside everything else of the pipeline.
 */
async function copyModel({
  pipeline,
  unet,
  to,
  adapters,
  followLinks,
}: {
  pipeline: string | null;
  unet: string;
  to: string;
  adapters: boolean;
  followLinks: boolean;
}): Promise<void> {
  await mkdir(to, { recursive: true });
  if (adapters) await cp(join(unet, '..', adapterFile), join(to, adapterFile));
  if (pipeline === null) {
    await cp(unet, to, { recursive: true });
  } else {
    await copyParts(pipeline, to, { followLinks });
    await cp(unet, join(to, 'unet'), { recursive: true });
  }
  await openAsFolder(to);
}

/** What --iteration names; undefined where that is not a model that was trained. */
function chooseModel(iteration: string, best: string): Model | undefined {
  switch (iteration) {
    case 'sft':
    case 'dpo':
      return { kind: iteration };
    case 'best': {
      const model = best === '' ? undefined : parseModel(best);
      return model?.kind === 'base' ? undefined : model;
    }
    default:
      return spin(Number(iteration));
  }
}

function parseIteration(value: string): string {
  if (!/^([1-9]\d*|best|sft|dpo)$/.test(value))
    throw new InvalidArgumentError('expected a number from 1, "best", "sft" or "dpo".');
  return value;
}
