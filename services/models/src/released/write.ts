/**
 * Writes a model folder with random weights that is, by names, shapes, types, configs and index
 * files, one of the releases.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { toBfloat16, toFloat16 } from '../files/float16.js';
import type { JsonObject } from '../files/json.js';
import { writeModelJson } from '../files/model-json.js';
import { writeWeights, type TensorSource } from '@spindle/kit';
import { releaseConfigs, type Release } from './configs.js';
import { elements, textShapes, unetShapes, vaeShapes, type Shapes } from './tensors.js';
import { syntheticVocabulary } from './vocabulary.js';

export type WeightDtype = 'F32' | 'F16' | 'BF16';

export interface RandomModelOptions {
  release: Release;
  /** The same parts, narrow: a few hundred thousand parameters. */
  reduced: boolean;
  dtype: WeightDtype;
  /** In file names, such as "fp16"; undefined: none. */
  variant: string | undefined;
  /** Files are cut into shards of at most so many bytes, with an index. */
  shardBytes: number;
  seed: number;
  /** Weights are holes in the files: zeros that take no disk. */
  hollow?: boolean;
}

export const defaultShardBytes = 10_000_000_000;

export function writeRandomModel(directory: string, options: RandomModelOptions): void {
  const { release, variant, shardBytes } = options;
  const configs = releaseConfigs(release, options.reduced);
  const component = (
    name: string,
    config: JsonObject,
    stem: string,
    shapes: Shapes,
    extra: readonly TensorSource[] = [],
  ): void => {
    const folder = join(directory, name);
    mkdirSync(folder, { recursive: true });
    writeModelJson(join(folder, 'config.json'), config);
    const tensors = [...shapes].map(([tensor, shape], n) =>
      options.hollow
        ? { name: tensor, dtype: options.dtype, shape, chunks: null }
        : randomTensor(tensor, shape, options.dtype, options.seed ^ hash(`${name}.${tensor}`) ^ n),
    );
    writeWeights(folder, stem, [...extra, ...tensors], { variant, shardBytes });
  };
  mkdirSync(directory, { recursive: true });
  writeModelJson(join(directory, 'model_index.json'), configs.modelIndex);
  component('unet', configs.unet, 'diffusion_pytorch_model', unetShapes(configs.unet));
  component(
    'vae',
    configs.vae,
    'diffusion_pytorch_model',
    vaeShapes(configs.vae, release !== 'sdxl'),
  );
  configs.textEncoders.forEach((config, n) => {
    const suffix = n === 0 ? '' : `_${n + 1}`;
    // The buffer is in files of the libraries of that time.
    component(
      `text_encoder${suffix}`,
      config,
      'model',
      textShapes(config),
      release === 'sd15' ? [positionIds(config)] : [],
    );
    writeTokenizer(join(directory, `tokenizer${suffix}`), config, configs.padTokens[n] ?? '!');
  });
  mkdirSync(join(directory, 'scheduler'), { recursive: true });
  writeModelJson(join(directory, 'scheduler', 'scheduler_config.json'), configs.scheduler);
}

function writeTokenizer(folder: string, config: JsonObject, padToken: string): void {
  const { vocab, merges } = syntheticVocabulary(config['vocab_size'] as number);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'vocab.json'), JSON.stringify(vocab));
  writeFileSync(join(folder, 'merges.txt'), `#version: 0.2\n${merges.join('\n')}\n`);
  const token = (content: string): JsonObject => ({
    content,
    lstrip: false,
    normalized: true,
    rstrip: false,
    single_word: false,
  });
  const specials: JsonObject = {
    bos_token: token('<|startoftext|>'),
    eos_token: token('<|endoftext|>'),
    unk_token: token('<|endoftext|>'),
  };
  writeModelJson(join(folder, 'special_tokens_map.json'), { ...specials, pad_token: padToken });
  writeModelJson(join(folder, 'tokenizer_config.json'), {
    add_prefix_space: false,
    do_lower_case: true,
    errors: 'replace',
    model_max_length: config['max_position_embeddings'] ?? 77,
    tokenizer_class: 'CLIPTokenizer',
    ...specials,
    pad_token: padToken,
  });
}

function positionIds(config: JsonObject): TensorSource {
  const count = config['max_position_embeddings'] as number;
  const ids = BigInt64Array.from({ length: count }, (_, i) => BigInt(i));
  return {
    name: 'text_model.embeddings.position_ids',
    dtype: 'I64',
    shape: [1, count],
    chunks: () => [new Uint8Array(ids.buffer)],
  };
}

/** FNV-1a. */
function hash(text: string): number {
  let state = 0x811c9dc5;
  for (const byte of Buffer.from(text)) state = Math.imul(state ^ byte, 0x01000193);
  return state >>> 0;
}

const chunkElements = 1 << 20;

/**
 * Matrices and filters uniform within sqrt(3 / inputs) / 2, embeddings within 0.05, norms 1, biases
 * 0: activations stay of their size.
 */
function randomTensor(
  name: string,
  shape: readonly number[],
  dtype: WeightDtype,
  seed: number,
): TensorSource {
  const count = elements(shape);
  const encode = dtype === 'F16' ? toFloat16 : toBfloat16;
  const inputs = shape.length > 1 ? count / (shape[0] ?? 1) : 0;
  const bound = name.includes('embeddings.') ? 0.05 : Math.sqrt(3 / Math.max(1, inputs)) / 2;
  const constant = inputs > 0 ? undefined : name.endsWith('weight') ? 1 : 0;
  return {
    name,
    dtype,
    shape,
    *chunks() {
      let state = (seed ^ 0x9e3779b9) | 1;
      const next = (): number => {
        if (constant !== undefined) return constant;
        // xorshift32
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        return (state / 0x80000000) * bound;
      };
      for (let from = 0; from < count; from += chunkElements) {
        const length = Math.min(chunkElements, count - from);
        if (dtype === 'F32') {
          const values = new Float32Array(length);
          for (let i = 0; i < length; i++) values[i] = next();
          yield new Uint8Array(values.buffer);
        } else {
          const values = new Uint16Array(length);
          for (let i = 0; i < length; i++) values[i] = encode(next());
          yield new Uint8Array(values.buffer);
        }
      }
    },
  };
}
