/**
 * `spindle-engine convert`: checkpoints in one file and pickled weights, as safetensors in
 * diffusers' layout.
 */
import { Option, type Command } from 'commander';
import { resolve } from 'node:path';
import type { Prediction } from '../convert/checkpoint.js';
import { convert } from '../convert/convert.js';
import { jsonOption, type CliContext } from './options.js';

interface ConvertFlags {
  to: string;
  tokenizer?: string;
  like?: string;
  prediction?: Prediction;
  json: boolean;
}

export function addConvert(program: Command, context: CliContext): void {
  program
    .command('convert')
    .description(
      'turn a checkpoint in one file (.safetensors, .ckpt) into a diffusers folder, and ' +
        'pickled weights (.bin, .pt, .ckpt; files or folders) into safetensors. Nothing in a ' +
        'pickle is ever run.',
    )
    .argument('<from>', 'file or folder')
    .requiredOption(
      '--to <path>',
      'folder to write, or a file that ends in .safetensors to keep names as they are',
    )
    .option(
      '--tokenizer <dir>',
      'folder with tokenizer.json, or vocab.json and merges.txt, which checkpoints in one ' +
        'file lack',
    )
    .option(
      '--like <dir>',
      'diffusers folder of the same architecture, whose configs, tokenizers and scheduler are ' +
        'taken',
    )
    .addOption(
      new Option(
        '--prediction <type>',
        'what the checkpoint predicts; needed for Stable Diffusion 2.x where the file does not say',
      ).choices(['epsilon', 'v_prediction']),
    )
    .addOption(jsonOption())
    .action((from: string, flags: ConvertFlags) => {
      const path = (value: string | undefined): string | undefined =>
        value === undefined ? undefined : resolve(value);
      const done = convert(resolve(from), resolve(flags.to), {
        tokenizer: path(flags.tokenizer),
        like: path(flags.like),
        prediction: flags.prediction,
      });
      for (const note of done.notes) context.warn(`note: ${note}`);
      context.write(
        flags.json ? JSON.stringify(done) : `${done.to}: ${done.what}, ${done.tensors} tensors`,
      );
    });
}
