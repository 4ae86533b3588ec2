import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './child.js';

export const scenes = join(root, 'examples/scenes');
export const fixtures = join(root, 'test/fixtures');

export function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}

/** Every trained U-Net of a run by folder ("iterations/1/unet"), as digests of its files. */
export function weightsOf(runDirectory: string): Record<string, string> {
  const folders = ['baselines', 'iterations'].flatMap((kind) => {
    const folder = join(runDirectory, kind);
    return existsSync(folder) ? readdirSync(folder).map((name) => join(kind, name, 'unet')) : [];
  });
  return Object.fromEntries(
    folders
      .sort()
      .flatMap((folder) =>
        ['config.json', 'diffusion_pytorch_model.safetensors'].map((name) => [
          join(folder, name),
          sha256(join(runDirectory, folder, name)),
        ]),
      ),
  );
}
