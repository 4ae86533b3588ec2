/**
 * A diffusers folder as a checkpoint in one file, with the names of the original code: what
 * convertCheckpoint reads, the other way about.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, type ModelSourceDto } from '@spindle/native';
import { modelPath, tensorBytes, type TensorSource } from '@spindle/kit';
import type { JsonObject } from '../files/json.js';
import { componentSource } from '../files/weights.js';
import { configOf, readPipeline } from '../pipeline/pipeline.js';
import { releaseConfigs, type Release } from '../released/configs.js';
import { elements, textShapes, unetShapes, vaeShapes, type Shapes } from '../released/tensors.js';
import { textSource } from './checkpoint.js';
import { bytesOf, RandomFile, safetensorsSources } from './files.js';
import { ldmUnetSource, ldmVaeSource, type LdmSource } from './ldm-names.js';

export interface SingleFile {
  release: Release;
  tensors: TensorSource[];
  notes: string[];
  close: () => void;
}

/** `model` with another U-Net, where one is named. The tensors are read when they are written. */
export function singleFile(model: string, unetFolder: string | undefined): SingleFile {
  const pipeline = readPipeline(model);
  const unet =
    unetFolder === undefined
      ? pipeline.unet
      : componentSource(unetFolder, 'diffusion_pytorch_model');
  const release = releaseOf(pipeline.textTowers.map(({ source }) => configOf(source)));
  const files: RandomFile[] = [];
  const close = (): void => {
    for (const file of files) file.close();
  };
  try {
    const named = (
      source: ModelSourceDto,
      shapes: Shapes,
      sourceOf: (name: string) => LdmSource,
    ): TensorSource[] => ldmTensors(readAll(source, files), shapes, sourceOf, source.label);
    const unetConfig = configOf(unet);
    const vaeConfig = configOf(pipeline.vae);
    const tensors = [
      ...named(unet, unetShapes(unetConfig), (name) => ldmUnetSource(name, unetConfig)),
      ...named(pipeline.vae, vaeShapes(vaeConfig, false), (name) => ldmVaeSource(name, vaeConfig)),
      ...pipeline.textTowers.flatMap(({ source }, n) =>
        named(source, textShapes(configOf(source)), (name) => textSource(release, n, name)),
      ),
      ...markers(pipeline.scheduler),
    ];
    return { release, tensors, notes: strangeness(release, unetConfig), close };
  } catch (error) {
    close();
    throw error;
  }
}

/** OpenAI's CLIP has another activation than open_clip's, and so has its place in the file. */
function releaseOf(texts: readonly JsonObject[]): Release {
  if (texts.length > 1) return 'sdxl';
  return (texts[0]?.['hidden_act'] ?? 'quick_gelu') === 'quick_gelu' ? 'sd15' : 'sd21';
}

function readAll({ weights }: ModelSourceDto, files: RandomFile[]): Map<string, TensorSource> {
  const found = new Map<string, TensorSource>();
  for (const path of weights) {
    const file = new RandomFile(path);
    files.push(file);
    for (const tensor of safetensorsSources(file)) found.set(newName(tensor.name), tensor);
  }
  return found;
}

const olderNames: Readonly<Record<string, string>> = {
  query: 'to_q',
  key: 'to_k',
  value: 'to_v',
  proj_attn: 'to_out.0',
};

/** VAEs from before diffusers 0.12; text encoders of transformers 5 lost "text_model.". */
function newName(name: string): string {
  return name
    .replace(
      /^(\w+\.mid_block\.attentions\.0)\.(query|key|value|proj_attn)\./,
      (_all, block: string, part: string) => `${block}.${olderNames[part]}.`,
    )
    .replace(/^(embeddings|encoder\.layers|final_layer_norm)\./, 'text_model.$1.');
}

function ldmTensors(
  found: ReadonlyMap<string, TensorSource>,
  shapes: Shapes,
  sourceOf: (name: string) => LdmSource,
  label: string,
): TensorSource[] {
  const out: TensorSource[] = [];
  const packed = new Map<string, TensorSource[]>();
  for (const [name, shape] of shapes) {
    const source = found.get(name);
    if (source === undefined) throw invalid(label, `expected the tensor ${name}, got none`);
    if (elements(source.shape) !== elements(shape))
      throw invalid(
        label,
        `${name}: expected the shape [${shape.join(', ')}], got [${source.shape.join(', ')}]`,
      );
    const to = sourceOf(name);
    const [ldm = name] = to.names;
    if (to.part !== undefined) {
      const parts = packed.get(ldm) ?? [];
      parts[to.part] = source;
      packed.set(ldm, parts);
    } else {
      out.push(
        to.transposed === true
          ? turned(source, ldm)
          : { ...source, name: ldm, shape: filter(ldm, shape) },
      );
    }
  }
  const unknown = [...found.keys()].find(
    (name) => !shapes.has(name) && !name.endsWith('position_ids'),
  );
  if (unknown !== undefined)
    throw invalid(
      label,
      `${unknown}: expected tensors that have a place in the file, got this one`,
    );
  return [
    ...out,
    ...[...packed].map(([name, parts]): TensorSource => {
      const [first] = parts as [TensorSource];
      return {
        name,
        dtype: first.dtype,
        shape: [3 * (first.shape[0] ?? 0), ...first.shape.slice(1)],
        *chunks() {
          for (const part of parts) yield* part.chunks();
        },
      };
    }),
  ];
}

/** The VAE's attention is of 1x1 filters there. */
function filter(ldm: string, shape: readonly number[]): readonly number[] {
  return shape.length === 2 && /\.mid\.attn_1\.(q|k|v|proj_out)\.weight$/.test(ldm)
    ? [...shape, 1, 1]
    : shape;
}

function turned(source: TensorSource, name: string): TensorSource {
  const [rows = 0, columns = 0] = source.shape;
  const width = tensorBytes(source) / (rows * columns);
  return {
    name,
    dtype: source.dtype,
    shape: [columns, rows],
    chunks: () => {
      const bytes = bytesOf(source);
      const out = Buffer.allocUnsafe(bytes.length);
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < columns; j++)
          bytes.copy(
            out,
            (j * rows + i) * width,
            (i * columns + j) * width,
            (i * columns + j + 1) * width,
          );
      return [out];
    },
  };
}

/** Empty tensors by which ComfyUI, Forge and others know what a model predicts. */
function markers(scheduler: JsonObject): TensorSource[] {
  if (scheduler['prediction_type'] !== 'v_prediction') return [];
  return ['v_pred', ...(scheduler['rescale_betas_zero_snr'] === true ? ['ztsnr'] : [])].map(
    (name) => ({ name, dtype: 'F32', shape: [0], chunks: () => [] }),
  );
}

/** Tools know the released architectures by their shapes, and no others. */
function strangeness(release: Release, unet: JsonObject): string[] {
  const shapes = (config: JsonObject): string => JSON.stringify([...unetShapes(config)]);
  return shapes(unet) === shapes(releaseConfigs(release).unet)
    ? []
    : [
        'the U-Net is not of a released architecture: Spindle reads the file again, but A1111, ' +
          'Forge and ComfyUI may not',
      ];
}

/** Whether a folder is a whole pipeline. */
export function isPipeline(path: string): boolean {
  return existsSync(join(modelPath(path).directory, 'model_index.json'));
}
