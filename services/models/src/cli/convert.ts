/**
 * `spindle-engine convert`: checkpoints in one file and pickled weights, as safetensors in
 * diffusers' layout.
 */
import { Option, type Command } from 'commander';
import { resolve } from 'node:path';
import { floatTypes, type FloatType } from '../convert/cast.js';
import type { Prediction } from '../convert/checkpoint.js';
import { convert, type Conversion } from '../convert/convert.js';
import { writeKohyaLora, writeSingleFile } from '../convert/for-other-tools.js';
import { EngineError } from '@spindle/native';
import { jsonOption, type CliContext } from './options.js';

interface ConvertFlags {
  to: string;
  tokenizer?: string;
  like?: string;
  prediction?: Prediction;
  singleFile?: boolean;
  loraFormat?: 'kohya';
  unet?: string;
  dtype?: FloatType;
  json: boolean;
}

export function addConvert(program: Command, context: CliContext): void {
  program
    .command('convert')
    .description(
      'turn a checkpoint in one file (.safetensors, .ckpt) into a diffusers folder, and ' +
        'pickled weights (.bin, .pt, .ckpt; files or folders) into safetensors. Nothing in a ' +
        'pickle is ever run. With --single-file or --lora-format the other way: files that ' +
        'A1111, Forge and ComfyUI open.',
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
    .option(
      '--single-file',
      'write a diffusers folder (U-Net, VAE, text encoders) as one checkpoint',
    )
    .addOption(
      new Option(
        '--lora-format <format>',
        'write a LoRA file of ours with these names; --like is the model that it is for',
      ).choices(['kohya']),
    )
    .option('--unet <dir>', "with --single-file: unet folder to use instead of the model's own")
    .addOption(
      new Option(
        '--dtype <type>',
        'with --single-file or --lora-format: type of the numbers; as they are unless told',
      ).choices(Object.keys(floatTypes)),
    )
    .addOption(jsonOption())
    .action((from: string, flags: ConvertFlags) => {
      const done = converted(resolve(from), resolve(flags.to), flags);
      for (const note of done.notes) context.warn(`note: ${note}`);
      context.write(
        flags.json ? JSON.stringify(done) : `${done.to}: ${done.what}, ${done.tensors} tensors`,
      );
    });
}

function converted(from: string, to: string, flags: ConvertFlags): Conversion {
  const path = (value: string | undefined): string | undefined =>
    value === undefined ? undefined : resolve(value);
  const { singleFile = false, loraFormat, dtype, prediction } = flags;
  const [tokenizer, like, unet] = [path(flags.tokenizer), path(flags.like), path(flags.unet)];
  const unused = (options: Record<string, string | undefined>, where: string): void => {
    for (const [name, value] of Object.entries(options))
      if (value !== undefined)
        throw new EngineError(
          'INVALID_ARGUMENT',
          `--${name}: expected nothing ${where}, got ${value}`,
        );
  };
  if (singleFile) {
    unused({ tokenizer, like, prediction, 'lora-format': loraFormat }, 'beside --single-file');
    return writeSingleFile(from, to, { unet, dtype });
  }
  unused({ unet }, 'without --single-file');
  if (loraFormat === undefined) {
    unused({ dtype }, 'without --single-file or --lora-format');
    return convert(from, to, { tokenizer, like, prediction });
  }
  unused({ tokenizer, prediction }, 'beside --lora-format');
  if (like === undefined)
    throw new EngineError(
      'INVALID_ARGUMENT',
      '--like: expected the folder of the model that the LoRA is for, got nothing',
    );
  return writeKohyaLora(from, to, { model: like, dtype });
}
