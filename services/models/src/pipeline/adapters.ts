/** LoRA files on top of a pipeline's U-Net and text encoders. */
import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { invalid, type AdaptedComponent, type ModelSourceDto } from '@spindle/native';
import { isPickle } from '../files/weights.js';
import type { Pipeline } from './pipeline.js';

/** A LoRA file, and what its own scale is multiplied with. */
export interface LoraFile {
  path: string;
  scale: number;
}

// What diffusers and PEFT call it in a folder of its own.
const names = ['pytorch_lora_weights.safetensors', 'adapter_model.safetensors'];

/** The file itself, or the one in a folder that diffusers or PEFT wrote. */
export function loraFile(path: string): string {
  const info = statSync(path, { throwIfNoEntry: false });
  if (info?.isDirectory() === true) {
    const found = names.filter((name) => existsSync(join(path, name)));
    const [name] = found;
    if (name !== undefined && found.length === 1) return join(path, name);
    throw invalid(
      path,
      `expected a LoRA file, or a folder with ${names.join(' or ')}, got ` +
        (found.length > 1 ? 'a folder with both' : 'a folder with neither'),
    );
  }
  if (isPickle(path))
    throw invalid(
      path,
      'pickle files are refused because they can run code; expected a .safetensors file; this ' +
        `makes it, running nothing: npx spindle convert ${path} --to ` +
        path.replace(/\.\w+$/, '.safetensors'),
    );
  return path;
}

/** All files that say what a LoRA file adds: PEFT writes its scale beside it. */
export function loraParts(file: string): string[] {
  const settings = join(dirname(file), 'adapter_config.json');
  return existsSync(settings) ? [file, settings] : [file];
}

const textEncoders = ['text_encoder', 'text_encoder_2'] as const;

/** The pipeline's U-Net, or another one that fits it, with the files' adapters for it. */
export function adaptedUnet(
  pipeline: Pick<Pipeline, 'textTowers'>,
  unet: ModelSourceDto,
  files: readonly LoraFile[],
): ModelSourceDto {
  return adapted(pipeline, unet, 'unet', files);
}

/** The pipeline with the files' adapters for its text encoders. */
export function withAdaptedText<P extends Pick<Pipeline, 'textTowers'>>(
  pipeline: P,
  files: readonly LoraFile[],
): P {
  return {
    ...pipeline,
    textTowers: pipeline.textTowers.map((tower, n) => ({
      ...tower,
      source: adapted(pipeline, tower.source, textEncoders[n] ?? 'text_encoder', files),
    })),
  };
}

function adapted(
  { textTowers }: Pick<Pipeline, 'textTowers'>,
  source: ModelSourceDto,
  component: AdaptedComponent,
  files: readonly LoraFile[],
): ModelSourceDto {
  if (files.length === 0) return source;
  const components: AdaptedComponent[] = ['unet', ...textEncoders.slice(0, textTowers.length)];
  return {
    ...source,
    adapters: files.map((file) => ({ ...file, target: { component, components } })),
  };
}
