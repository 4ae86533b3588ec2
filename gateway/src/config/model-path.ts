/**
 * Model folders as configs name them: FOLDER, or FOLDER@VARIANT for the weights of a variant; the
 * engine reads them the same way.
 */
import { existsSync } from 'node:fs';
import { basename } from 'node:path';

export interface ModelPath {
  directory: string;
  variant: string | undefined;
}

/** A folder that is there under the very name, "@" and all, is that folder. */
export function modelPath(path: string): ModelPath {
  return existsSync(path) ? { directory: path, variant: undefined } : splitModelPath(path);
}

/** By the name alone. */
export function splitModelPath(path: string): ModelPath {
  const [, directory, variant] = /^(.*[^/])@([A-Za-z0-9_.-]+)$/.exec(path) ?? [];
  return directory === undefined ? { directory: path, variant: undefined } : { directory, variant };
}

/** For people: the folder's name, and the variant. */
export function modelName(path: string): { name: string; variant: string | undefined } {
  const { directory, variant } = splitModelPath(path.replace(/\/+$/, ''));
  return { name: basename(directory), variant };
}
