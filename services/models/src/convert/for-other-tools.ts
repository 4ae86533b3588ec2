/** Files that A1111, Forge and ComfyUI open, out of ours. */
import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { EngineError } from '@spindle/native';
import { modelPath, readSafetensorsHeader, writeSafetensorsFile } from '@spindle/kit';
import { readJsonObject } from '../files/json.js';
import { castTo, type FloatType } from './cast.js';
import { families } from './checkpoint.js';
import type { Conversion } from './convert.js';
import { RandomFile, safetensorsSources } from './files.js';
import { kohyaLora } from './kohya.js';
import { isPipeline, singleFile } from './single-file.js';

/** A pipeline's folder as one checkpoint; `unet` takes the place of its own. */
export function writeSingleFile(
  model: string,
  to: string,
  { unet, dtype }: { unet: string | undefined; dtype: FloatType | undefined },
): Conversion {
  refuseExisting(to);
  const { release, tensors, notes, close } = singleFile(model, unet);
  try {
    mkdirSync(dirname(to), { recursive: true });
    writeSafetensorsFile(
      to,
      dtype === undefined ? tensors : tensors.map((tensor) => castTo(dtype, tensor, model)),
    );
  } finally {
    close();
  }
  return { to, what: `${families[release]} in one file`, tensors: tensors.length, notes };
}

/** A LoRA file of ours under kohya's names; `model` is the pipeline or U-Net that it is for. */
export function writeKohyaLora(
  from: string,
  to: string,
  { model, dtype }: { model: string; dtype: FloatType | undefined },
): Conversion {
  refuseExisting(to);
  const { directory } = modelPath(model);
  const folder = isPipeline(model) ? join(directory, 'unet') : directory;
  const { metadata: header } = readSafetensorsHeader(from);
  const file = new RandomFile(from);
  try {
    const { tensors, metadata } = kohyaLora(
      from,
      safetensorsSources(file),
      header,
      readJsonObject(join(folder, 'config.json')),
    );
    mkdirSync(dirname(to), { recursive: true });
    writeSafetensorsFile(
      to,
      dtype === undefined ? tensors : tensors.map((tensor) => castTo(dtype, tensor, from)),
      metadata,
    );
    return { to, what: 'a LoRA with the names of kohya', tensors: tensors.length, notes: [] };
  } finally {
    file.close();
  }
}

function refuseExisting(to: string): void {
  if (!to.endsWith('.safetensors') || existsSync(to))
    throw new EngineError(
      'INVALID_ARGUMENT',
      `--to: expected a file that ends in .safetensors and does not exist, got ${to}`,
    );
}
