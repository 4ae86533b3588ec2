/**
 * artifacts/<run>/…: U-Nets that diffusers loads as they are, linked from the store so that they
 * cost no space.
 */
import { copyFile, link, mkdir, readlink, rename, rm, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { temporaryName } from '@spindle/kit';
import type { ArtifactStore } from '@spindle/mesh';
import { modelName, parseModel, spin, type Model } from '../domain/model.js';
import type { StoredBlob, StoredUnet } from '../domain/state.js';
import { toRef } from './wire.js';

/**
 * "iterations/2/unet" for spin2, "iterations/2/ema/unet" for its average, "iterations/2/at-50/unet"
 * for a part, "baselines/sft/unet" for the baseline. The base has none: it lies where the config
 * says.
 */
export function unetFolder(model: Model): string {
  switch (model.kind) {
    case 'spin':
      return join('iterations', String(model.iteration), 'unet');
    case 'part':
      return join('iterations', String(model.iteration), `at-${model.steps}`, 'unet');
    case 'ema':
      return averageFolder(unetFolder(spin(model.iteration)));
    case 'sft':
    case 'dpo':
      return join('baselines', model.kind, 'unet');
    case 'base':
      throw new RangeError(
        `a folder of this run: expected a trained model, got ${modelName(model)}`,
      );
  }
}

/** Beside the U-Net's: "iterations/2/ema/unet". */
export function averageFolder(unet: string): string {
  return join(dirname(unet), 'ema', 'unet');
}

/** diffusers' name for a U-Net's weights. */
export const weightsFile = 'diffusion_pytorch_model.safetensors';

/** diffusers' name for adapters, in the folder above the U-Net's. */
export const adapterFile = 'pytorch_lora_weights.safetensors';

export async function exportUnet(
  store: ArtifactStore,
  unet: StoredUnet,
  folder: string,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await place(store, unet.config, join(folder, 'config.json'), 'copy');
  await place(store, unet.weights, join(folder, weightsFile), 'link');
  if (unet.adapter) await place(store, unet.adapter, join(dirname(folder), adapterFile), 'link');
}

async function place(
  store: ArtifactStore,
  blob: StoredBlob,
  target: string,
  how: 'link' | 'copy',
): Promise<void> {
  const source = await store.localPath(toRef(blob));
  const temporary = temporaryName(dirname(target));
  try {
    if (how === 'copy') await copyFile(source, temporary);
    // Another file system cannot be linked to.
    else await link(source, temporary).catch(() => copyFile(source, temporary));
    await rename(temporary, target);
  } finally {
    // Also after success: renaming one hard link onto another of the same file leaves both.
    await rm(temporary, { force: true });
  }
}

/** `best` points at the folder whose unet/ has the best held-out score. */
export async function pointBest(directory: string, best: string): Promise<void> {
  if (best === '') return;
  const model = parseModel(best);
  if (model.kind === 'base') return;
  const target = dirname(unetFolder(model));
  const path = join(directory, 'best');
  if ((await readlink(path).catch(() => '')) === target) return;
  const temporary = temporaryName(directory);
  await symlink(target, temporary);
  await rename(temporary, path);
}
