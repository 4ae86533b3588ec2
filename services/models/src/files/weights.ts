/**
 * Finds a component's safetensors: a single file, a sharded index, or either in a variant such as
 * fp16.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { EngineError, invalid, type ModelSourceDto } from '@spindle/native';
import { describe, isObject, readJsonObject, readText } from './json.js';
import { modelPath } from '@spindle/kit';

const pickles = ['.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle'];
// What people publish beside, or instead of, the full-precision files.
const variants = ['fp16', 'bf16', 'non_ema', 'ema'];

export type WeightsStem = 'diffusion_pytorch_model' | 'model';

/** The files of `variant`, or where none is asked for the plain ones, or any variant's. */
export function findWeights(directory: string, stem: WeightsStem, variant?: string): string[] {
  const candidates = variant === undefined ? [undefined, ...variants] : [variant];
  for (const candidate of candidates) {
    const found = variantWeights(directory, stem, candidate);
    if (found !== null) return found;
  }
  if (variant !== undefined) throw invalid(directory, missingVariant(directory, stem, variant));
  const expected = `${stem}.safetensors`;
  const pickle = readdirSync(directory).find((name) =>
    pickles.some((extension) => name.endsWith(extension)),
  );
  if (pickle !== undefined) {
    throw invalid(
      join(directory, pickle),
      `pickle files are refused because they can run code; expected ${expected}; this makes ` +
        `it, running nothing: npx spindle convert ${directory} --to FOLDER`,
    );
  }
  throw invalid(directory, `expected ${expected} or its index, got neither`);
}

/** Throws only for an index that does not read. */
function variantWeights(
  directory: string,
  stem: WeightsStem,
  variant: string | undefined,
): string[] | null {
  const suffix = variant === undefined ? '' : `.${variant}`;
  const single = join(directory, `${stem}${suffix}.safetensors`);
  if (existsSync(single)) return [single];
  // diffusers puts the variant before ".json", older transformers before ".safetensors".
  for (const index of [
    `${stem}.safetensors.index${suffix}.json`,
    `${stem}${suffix}.safetensors.index.json`,
  ]) {
    if (existsSync(join(directory, index))) return readIndex(directory, index);
  }
  return null;
}

function missingVariant(directory: string, stem: WeightsStem, variant: string): string {
  const there = readdirSync(directory).filter(
    (name) => name.endsWith('.safetensors') || name.includes('.safetensors.index'),
  );
  const got = there.length === 0 ? 'no safetensors' : there.sort().join(', ');
  return (
    `expected ${stem}.${variant}.safetensors or its index (variant ${JSON.stringify(variant)}), ` +
    `got ${got}`
  );
}

/** Whether a file's name says that it is a pickle. */
export function isPickle(file: string): boolean {
  return pickles.some((extension) => file.endsWith(extension));
}

/** Throws for a file that is no safetensors. */
export function refusePickles(file: string): never {
  throw invalid(
    file,
    isPickle(file)
      ? 'pickle files are refused because they can run code; expected a .safetensors file; this ' +
          `makes it, running nothing: npx spindle convert ${file} --to FOLDER`
      : 'expected a .safetensors file, got another kind',
  );
}

function readIndex(directory: string, name: string): string[] {
  const file = join(directory, name);
  const map = readJsonObject(file)['weight_map'];
  if (!isObject(map)) throw invalid(file, `weight_map: expected an object, got ${describe(map)}`);
  const shards = new Set<string>();
  for (const [tensor, shard] of Object.entries(map)) {
    if (typeof shard !== 'string' || shard !== basename(shard) || !shard.endsWith('.safetensors')) {
      throw invalid(
        file,
        `weight_map.${tensor}: expected the name of a safetensors file in the same folder, ` +
          `got ${describe(shard)}`,
      );
    }
    shards.add(shard);
  }
  if (shards.size === 0) throw invalid(file, 'weight_map: expected at least one tensor, got none');
  for (const shard of shards) {
    if (!existsSync(join(directory, shard)))
      throw invalid(file, `weight_map: expected the file ${shard}, got no such file`);
  }
  return [...shards].sort().map((shard) => join(directory, shard));
}

export function requireDirectory(directory: string, what: string): void {
  if (!statSync(directory, { throwIfNoEntry: false })?.isDirectory()) {
    throw new EngineError('INVALID_ARGUMENT', `${directory}: expected ${what}, got no such folder`);
  }
}

/** A component folder, perhaps with a variant (`modelPath`): config.json and its weights. */
export function componentSource(path: string, stem: WeightsStem): ModelSourceDto {
  const { directory, variant } = modelPath(path);
  requireDirectory(directory, 'a model folder');
  return {
    config: readText(join(directory, 'config.json')),
    weights: findWeights(directory, stem, variant),
    label: directory,
  };
}

/**
 * The same, but the plain files where the part has none of the variant, as diffusers does;
 * `fallback` hears of it.
 */
export function partSource(
  path: string,
  stem: WeightsStem,
  fallback: (message: string) => void,
): ModelSourceDto {
  const { directory, variant } = modelPath(path);
  if (
    variant === undefined ||
    !existsSync(directory) ||
    variantWeights(directory, stem, variant) !== null
  )
    return componentSource(path, stem);
  const source = componentSource(directory, stem);
  fallback(
    `${directory}: no weights of variant ${JSON.stringify(variant)}; ` +
      `${source.weights.map((file) => basename(file)).join(', ')} is used`,
  );
  return source;
}
