/**
 * `spindle-engine random-model`: a release's folder with random weights, to try things at full size
 * without a download.
 */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { resolve } from 'node:path';
import { releases, type Release } from '../released/configs.js';
import { defaultShardBytes, writeRandomModel, type WeightDtype } from '../released/write.js';
import { integer, jsonOption, type CliContext } from './options.js';

interface RandomModelFlags {
  out: string;
  release: Release;
  reduced: boolean;
  dtype: WeightDtype;
  variant?: string;
  shardBytes: number;
  seed: number;
  hollow: boolean;
  json: boolean;
}

export function addRandomModel(program: Command, context: CliContext): void {
  program
    .command('random-model')
    .description(
      'write a model folder with random weights: names, shapes, types, configs and index ' +
        'files as released',
    )
    .requiredOption('--out <dir>', 'folder to write')
    .addOption(new Option('--release <name>', 'which release').choices(releases).default('sd15'))
    .option('--reduced', 'the same parts, narrow: a few megabytes for tests', false)
    .addOption(
      new Option('--dtype <type>', 'type of the weights')
        .choices(['F32', 'F16', 'BF16'])
        .default('F32'),
    )
    .option('--variant <name>', 'a variant in the file names, such as fp16', variant)
    .option(
      '--shard-bytes <n>',
      'largest file; more is cut into shards with an index',
      integer(1),
      defaultShardBytes,
    )
    .option('--seed <n>', 'seed of the weights', integer(0), 0)
    .option(
      '--hollow',
      'zeros that take no disk instead of random weights: enough for run --dry-run',
      false,
    )
    .addOption(jsonOption())
    .action((flags: RandomModelFlags) => {
      const out = resolve(flags.out);
      writeRandomModel(out, { ...flags, variant: flags.variant });
      context.write(
        flags.json
          ? JSON.stringify({ out })
          : `${out}: ${flags.release}${flags.reduced ? ', reduced' : ''}, ${flags.dtype}, ` +
              `${flags.hollow ? 'hollow' : 'random'} weights`,
      );
    });
}

function variant(text: string): string {
  if (!/^[a-z0-9_]+$/.test(text))
    throw new InvalidArgumentError(
      `expected letters, digits and "_", got ${JSON.stringify(text)}.`,
    );
  return text;
}
