/** Copies a pipeline folder's parts: all of them but the U-Net, whose place the caller fills. */
import { cp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { modelPath } from '@spindle/kit';

const stems = ['diffusion_pytorch_model', 'model'];

/**
 * The weights of a variant that the run was made with take the plain names, so that what is loaded
 * from the copy is what was evaluated.
 */
export async function copyParts(pipeline: string, to: string): Promise<void> {
  const { directory, variant } = modelPath(pipeline);
  const skip = join(directory, 'unet');
  await cp(directory, to, {
    recursive: true,
    dereference: true,
    filter: (source) => source !== skip && !source.startsWith(`${skip}/`),
  });
  if (variant === undefined) return;
  for (const part of await readdir(to, { withFileTypes: true })) {
    if (part.isDirectory()) await promote(join(to, part.name), variant);
  }
}

async function promote(folder: string, variant: string): Promise<void> {
  for (const stem of stems) {
    const plain = [`${stem}.safetensors`, `${stem}.safetensors.index.json`];
    const named: [string, string | undefined][] = [
      [`${stem}.${variant}.safetensors`, plain[0]],
      [`${stem}.safetensors.index.${variant}.json`, plain[1]],
      [`${stem}.${variant}.safetensors.index.json`, plain[1]],
    ];
    const there = new Set(await readdir(folder));
    const found = named.find(([file]) => there.has(file));
    if (found === undefined) continue;
    for (const file of there)
      if (plain.includes(file) || isShard(file, stem)) await rm(join(folder, file));
    await rename(join(folder, found[0]), join(folder, found[1] ?? ''));
  }
}

/** Of the plain weights. */
function isShard(file: string, stem: string): boolean {
  return file.startsWith(`${stem}-`) && /-\d+-of-\d+\.safetensors$/.test(file);
}
