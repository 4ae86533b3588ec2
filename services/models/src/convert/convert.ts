/** `spindle convert`: whatever people publish weights in, as safetensors. */
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, extname, join } from 'node:path';
import { EngineError, invalid } from '@spindle/native';
import { isObject, readJsonObject } from '../files/json.js';
import { readSafetensorsHeader, writeSafetensorsFile, type TensorSource } from '@spindle/kit';
import { convertCheckpoint, type CheckpointOptions } from './checkpoint.js';
import { RandomFile, safetensorsSources } from './files.js';
import { readTorchArchive } from './torch-archive.js';

export const pickleExtensions = ['.bin', '.pt', '.pth', '.ckpt'];

export interface Conversion {
  to: string;
  /** In words: what it was. */
  what: string;
  tensors: number;
  notes: string[];
}

/**
 * `from` is a file or a folder; `to` a file that ends in .safetensors, or a folder that is empty or
 * absent.
 */
export function convert(from: string, to: string, options: CheckpointOptions): Conversion {
  const info = statSync(from, { throwIfNoEntry: false });
  if (info === undefined) throw invalid(from, 'expected a file or a folder, got neither');
  if (existsSync(to) && (!statSync(to).isDirectory() || readdirSync(to).length > 0))
    throw new EngineError(
      'INVALID_ARGUMENT',
      `--to: expected an empty or absent folder, or a file that does not exist, got ${to}`,
    );
  if (info.isDirectory() || to.endsWith('.safetensors')) refuseOptions(options);
  const created = !existsSync(to);
  try {
    if (info.isDirectory()) return convertFolder(from, to);
    return withTensors(from, (tensors, notes) => {
      if (to.endsWith('.safetensors')) {
        mkdirSync(dirname(to), { recursive: true });
        writeSafetensorsFile(to, tensors, metadataOf(from));
        return { to, what: 'tensors', tensors: tensors.length, notes };
      }
      const { family, unused, notes: more } = convertCheckpoint(from, tensors, to, options);
      notes.push(...more);
      if (unused.length > 0)
        notes.push(
          `${unused.length} tensors have no part in the pipeline and are left out: ${few(unused)}`,
        );
      return { to, what: family, tensors: tensors.length, notes };
    });
  } catch (error) {
    // Half a model is worse than none.
    if (created) rmSync(to, { recursive: true, force: true });
    throw error;
  }
}

/** They say what to make of a checkpoint in one file. */
function refuseOptions(options: CheckpointOptions): void {
  for (const [name, value] of Object.entries(options))
    if (value !== undefined)
      throw new EngineError(
        'INVALID_ARGUMENT',
        `--${name}: expected nothing where tensors keep their names (only a checkpoint in one ` +
          `file becomes a folder by it), got ${value}`,
      );
}

/** A header can say what its tensors mean: of a LoRA file of diffusers, the scale. */
function metadataOf(path: string): Record<string, string> {
  const own = extname(path) === '.safetensors' ? readSafetensorsHeader(path).metadata : {};
  return { format: 'pt', ...own };
}

function withTensors<T>(path: string, work: (tensors: TensorSource[], notes: string[]) => T): T {
  const file = new RandomFile(path);
  try {
    if (extname(path) === '.safetensors') return work(safetensorsSources(file), []);
    const { tensors, others } = readTorchArchive(file);
    return work(
      tensors,
      others.length > 0
        ? [`${path}: ${others.length} entries are no tensors and are left out: ${few(others)}`]
        : [],
    );
  } finally {
    file.close();
  }
}

function few(names: readonly string[]): string {
  return names.slice(0, 3).join(', ') + (names.length > 3 ? ', …' : '');
}

const skipped = ['safety_checker', 'feature_extractor'];

/**
 * Copies a folder; pickled weights become safetensors under the name that the library gives those.
 */
function convertFolder(from: string, to: string): Conversion {
  const notes: string[] = [];
  let count = 0;
  const walk = (folder: string, target: string): void => {
    mkdirSync(target, { recursive: true });
    const names = readdirSync(folder).sort();
    for (const name of names) {
      const path = join(folder, name);
      if (statSync(path).isDirectory()) {
        if (skipped.includes(name)) notes.push(`${path} is not used and left out`);
        else walk(path, join(target, name));
      } else if (pickleExtensions.includes(extname(name))) {
        const renamed = safetensorsName(name);
        if (names.includes(renamed)) notes.push(`${path} is left out: ${renamed} is beside it`);
        else
          count += withTensors(path, (tensors, more) => {
            writeSafetensorsFile(join(target, renamed), tensors);
            notes.push(...more);
            return tensors.length;
          });
      } else if (/\.(bin|pt|pth)\.index(\.\w+)?\.json$/.test(name)) {
        writeIndex(
          path,
          join(
            target,
            name
              .replace(/^pytorch_model/, 'model')
              .replace(/\.(bin|pt|pth)\.index/, '.safetensors.index'),
          ),
        );
      } else {
        cpSync(path, join(target, name));
      }
    }
  };
  walk(from, to);
  if (count === 0)
    throw invalid(from, `expected files that end in ${pickleExtensions.join(', ')}, got none`);
  return { to, what: 'a model folder', tensors: count, notes };
}

/**
 * transformers calls its pickle pytorch_model and its safetensors model; diffusers has one name for
 * both.
 */
function safetensorsName(name: string): string {
  return `${basename(name, extname(name)).replace(/^pytorch_model/, 'model')}.safetensors`;
}

function writeIndex(from: string, to: string): void {
  const index = readJsonObject(from);
  const map = index['weight_map'];
  if (!isObject(map)) throw invalid(from, 'weight_map: expected an object, got something else');
  const renamed = Object.fromEntries(
    Object.entries(map).map(([tensor, file]) => {
      if (typeof file !== 'string')
        throw invalid(from, `weight_map.${tensor}: expected a file name, got something else`);
      return [tensor, safetensorsName(file)];
    }),
  );
  writeFileSync(to, `${JSON.stringify({ ...index, weight_map: renamed }, null, 2)}\n`);
}
