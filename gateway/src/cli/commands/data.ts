/** `spindle data inspect`: what a data set holds, before any run; works without a mesh. */
import { readFileSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { dataFormats, isRemote, type BucketSettings, type DataFormat } from '@spindle/data';
import { loadRunConfig } from '../../config/load.js';
import { bucketsSchema } from '../../config/schema/data.js';
import type { RunConfig } from '../../config/schema.js';
import { dataSpec } from '../../server/dataset.js';
import { inspectMain } from '../mesh/packages.js';
import { runProgram } from './engine.js';

interface InspectOptions {
  model?: string;
  format: DataFormat | 'auto';
  imageColumn?: string;
  rejectedColumn?: string;
  captionColumn?: string;
  images?: string;
  limit?: number;
  resolution?: number;
  buckets?: boolean;
  sheet: string | false;
  quick?: boolean;
  json?: boolean;
}

const formats = ['auto', ...dataFormats];

export function addData(program: Command): void {
  const data = program
    .command('data')
    .summary('look at data sets')
    .description('Commands about data sets.');
  data
    .command('inspect')
    .summary('count, check and show a data set')
    .description(
      'Reads a whole data set as a run would and says what it holds: counts, sizes, rejected ' +
        'rows with reasons, lengths of captions, duplicates; draws a contact sheet. Needs no ' +
        'mesh.',
    )
    .argument(
      '<path>',
      'a run config (YAML, or JSON with a "data" key), or a path as in its key data.path',
    )
    .option(
      '--model <dir>',
      "pipeline folder whose tokenizer counts the captions' tokens (default: the config's model)",
    )
    .addOption(new Option('--format <name>', 'as in data.format').choices(formats).default('auto'))
    .option('--image-column <name>', 'as in data.image_column')
    .option('--rejected-column <name>', 'as in data.rejected_column')
    .option('--caption-column <name>', 'as in data.caption_column')
    .option('--images <dir>', 'as in data.images')
    .option('--limit <n>', 'look at the first so many rows only', positive)
    .option(
      '--resolution <pixels>',
      "count images whose shorter side is below this (default: the config's, the model's, or 512)",
      positive,
    )
    .option(
      '--buckets',
      "count images per aspect-ratio bucket (default: the config's data.buckets)",
    )
    .option('--sheet <file.png>', 'where the contact sheet goes', 'contact-sheet.png')
    .option('--no-sheet', 'draw no contact sheet')
    .option('--quick', "read the images' headers only: faster, and finds fewer broken ones")
    .option('--json', 'one JSON object')
    .addHelpText(
      'after',
      '\nExamples:\n  npx spindle data inspect examples/scenes/run.yaml\n  npx spindle data ' +
        'inspect "pickapic_v2/train-*.parquet" --model ./sd15 --json',
    )
    .action(async (path: string, options: InspectOptions) => {
      process.exitCode = await runProgram(inspectMain(), [
        JSON.stringify(requestOf(path, options)),
      ]);
    });
}

function requestOf(path: string, options: InspectOptions): object {
  const at = (own: string): string => (isRemote(own) ? own : resolve(own));
  const config = isConfig(path) ? loadRunConfig(path) : undefined;
  const model = options.model === undefined ? config?.model : resolve(options.model);
  return {
    spec: config
      ? dataSpec(config.data)
      : {
          path: at(path),
          format: options.format,
          imageColumn: options.imageColumn,
          rejectedColumn: options.rejectedColumn,
          captionColumn: options.captionColumn,
          images: options.images === undefined ? undefined : at(options.images),
        },
    model: model ?? null,
    limit: options.limit ?? config?.data.limit ?? null,
    resolution: options.resolution ?? config?.data.resolution ?? null,
    buckets: bucketsOf(options, config),
    sheet: options.sheet === false ? null : resolve(options.sheet),
    quick: options.quick ?? false,
    json: options.json ?? false,
  };
}

/** With the flag alone, those of a config that says no more than `buckets: {}`. */
function bucketsOf(options: InspectOptions, config: RunConfig | undefined): BucketSettings | null {
  const buckets = config?.data.buckets ?? (options.buckets ? bucketsSchema.parse({}) : undefined);
  return buckets ? { step: buckets.step, maxRatio: buckets.max_ratio } : null;
}

/** Prompts may be JSON too, but they are an array. */
function isConfig(path: string): boolean {
  if (/\.ya?ml$/i.test(path)) return true;
  if (!/\.json$/i.test(path) || statSync(path, { throwIfNoEntry: false })?.isFile() !== true)
    return false;
  return readFileSync(path, 'utf8').trimStart().startsWith('{');
}

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError('Expected a positive whole number.');
  return value;
}
