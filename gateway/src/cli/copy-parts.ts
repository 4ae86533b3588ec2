/** Copies a pipeline folder's parts: all of them but the U-Net, whose place the caller fills. */
import { chmod, cp, readdir, readlink, realpath, rename, rm, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { hubBlobs } from '@spindle/data';
import { modelPath, SpindleError } from '@spindle/kit';

const stems = ['diffusion_pytorch_model', 'model'];

/**
 * The weights of a variant that the run was made with take the plain names, so that what is loaded
 * from the copy is what was evaluated. Links that lead out of the folder are refused, unless they
 * are to be followed: what they lead to may not be meant for others.
 */
export async function copyParts(
  pipeline: string,
  to: string,
  { followLinks = false } = {},
): Promise<void> {
  const { directory, variant } = modelPath(pipeline);
  const skip = join(directory, 'unet');
  if (!followLinks) await refuseLinks(directory, skip);
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

/** A snapshot in Hugging Face's cache is links to the blobs beside it: those are its own. */
async function refuseLinks(directory: string, skip: string): Promise<void> {
  const root = await realpath(directory);
  const own = [root, ...hubBlobs(root)];
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (!entry.isSymbolicLink() || path === skip || path.startsWith(skip + sep)) continue;
    const real = await realpath(path).catch(async () => readlink(path));
    if (own.some((folder) => real.startsWith(folder + sep))) continue;
    throw new SpindleError(
      'FAILED_PRECONDITION',
      `${path}: expected a file of the model, got a link that leads out of its folder to ${real}; ` +
        'copy there what belongs to the model, or export with --follow-links.',
    );
  }
}

/** What the mesh keeps for its own user is open to those to whom the folder is. */
export async function openAsFolder(folder: string): Promise<void> {
  const { mode } = await stat(folder);
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const rights = mode & (entry.isDirectory() ? 0o777 : 0o666);
    if (!entry.isSymbolicLink()) await chmod(join(entry.parentPath, entry.name), rights);
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
