/**
 * Which files a model is read from, so that a change of one can be noticed. What is not there is
 * left out: whoever loads the model says what is missing.
 */
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { modelPath } from '@spindle/kit';
import { findWeights, type WeightsStem } from './weights.js';

/** Every config and vocabulary that this package looks for in a model's folder. */
const configNames = [
  'added_tokens.json',
  'config.json',
  'merges.txt',
  'model_index.json',
  'open_clip_config.json',
  'preprocessor_config.json',
  'processor_config.json',
  'scheduler_config.json',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'vocab.txt',
];

/** Configs and vocabularies that lie in a folder. */
export function configFiles(directory: string): string[] {
  return configNames.map((name) => join(directory, name)).filter((file) => existsSync(file));
}

/** The weights, or none where finding them fails. */
export function weightsOrNone(find: () => readonly string[]): readonly string[] {
  try {
    return find();
  } catch {
    return [];
  }
}

/** Of a unet folder, perhaps with a variant. */
export function unetFiles(path: string): string[] {
  return componentFiles(path, 'diffusion_pytorch_model');
}

/** Of a pipeline folder, perhaps with a variant: all but the U-Net. */
export function pipelineFiles(path: string): string[] {
  const { directory } = modelPath(path);
  const names = existsSync(directory) ? readdirSync(directory).sort() : [];
  return [
    ...configFiles(directory),
    ...names.flatMap((name) => {
      if (/^(tokenizer|scheduler)(_\d+)?$/.test(name)) return configFiles(join(directory, name));
      if (name === 'vae') return componentFiles(join(path, name), 'diffusion_pytorch_model');
      if (/^text_encoder(_\d+)?$/.test(name)) return componentFiles(join(path, name), 'model');
      return [];
    }),
  ];
}

/** As `partSource` chooses them: the plain files where there are none of the variant. */
function componentFiles(path: string, stem: WeightsStem): string[] {
  const { directory, variant } = modelPath(path);
  const own = weightsOrNone(() => findWeights(directory, stem, variant));
  const weights = own.length > 0 ? own : weightsOrNone(() => findWeights(directory, stem));
  return [...configFiles(directory), ...weights];
}

/** Of a folder or a single file: its configs, and the weights that `find` names. */
export function judgeFolderFiles(path: string, find: () => readonly string[]): string[] {
  const weights = weightsOrNone(find);
  const directory = existsSync(modelPath(path).directory) ? modelPath(path).directory : path;
  const folder = weights[0] === undefined ? directory : dirname(weights[0]);
  return [...configFiles(folder), ...configFiles(join(folder, 'tokenizer')), ...weights];
}
