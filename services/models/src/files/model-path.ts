/**
 * Model folders as people name them: FOLDER, or FOLDER@VARIANT for the weights of a variant such as
 * fp16 ("unet/diffusion_pytorch_model.fp16.safetensors"). What is joined to such a name names a
 * part of the same variant.
 */
import { existsSync } from 'node:fs';

export interface ModelPath {
  directory: string;
  variant: string | undefined;
}

/** A folder that is there under the very name, "@" and all, is that folder. */
export function modelPath(path: string): ModelPath {
  const [, folder, variant, rest = ''] =
    /^(.*[^/])@([A-Za-z0-9_.-]+)((?:\/[^@]*)?)$/.exec(path) ?? [];
  if (
    folder === undefined ||
    variant === undefined ||
    existsSync(path) ||
    existsSync(`${folder}@${variant}`)
  )
    return { directory: path, variant: undefined };
  return { directory: `${folder}${rest}`, variant };
}
