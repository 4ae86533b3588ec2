/**
 * Folders of files with variants: FOLDER, or FOLDER@VARIANT for a variant such as fp16
 * ("unet/diffusion_pytorch_model.fp16.safetensors"). What is joined to such a name names a part of
 * the same variant.
 */
import { existsSync } from 'node:fs';
import { basename } from 'node:path';

/** A folder, and the variant of its files where one was named. */
export interface ModelPath {
  directory: string;
  variant: string | undefined;
}

/** Reads FOLDER@VARIANT. A folder that is there under the very name, "@" and all, is that one. */
export function modelPath(path: string): ModelPath {
  const parts = split(path);
  if (!parts || existsSync(path) || existsSync(`${parts.folder}@${parts.variant}`)) {
    return { directory: path, variant: undefined };
  }
  return { directory: `${parts.folder}${parts.rest}`, variant: parts.variant };
}

/** For people, by the name alone: the folder's name, and the variant. */
export function modelName(path: string): { name: string; variant: string | undefined } {
  const bare = path.replace(/\/+$/, '');
  const parts = split(bare);
  return parts?.rest === ''
    ? { name: basename(parts.folder), variant: parts.variant }
    : { name: basename(bare), variant: undefined };
}

function split(path: string): { folder: string; variant: string; rest: string } | undefined {
  const [, folder, variant, rest = ''] =
    /^(.*[^/])@([A-Za-z0-9_.-]+)((?:\/[^@]*)?)$/.exec(path) ?? [];
  return folder === undefined || variant === undefined ? undefined : { folder, variant, rest };
}
