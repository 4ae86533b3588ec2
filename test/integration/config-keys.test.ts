/**
 * The tables of config keys against the engine: what they say it refuses it refuses by name, what
 * they say is read changes what it computes, and what they say has no effect has none.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  configOf,
  everyConfig,
  parseJson,
  readClipFolder,
  readPipeline,
  stringifyJson,
  writeRandomModel,
  type ConfigKeys,
  type JsonObject,
  type JsonValue,
} from '@spindle/models';
import { oddValue } from '@spindle/models/testing';
import { Engine, type ModelSourceDto, type TensorDto } from '@spindle/native';

let engine: Engine;
let scratch: string;
let unet: ModelSourceDto;
let vae: ModelSourceDto;
let text: ModelSourceDto;
let clip: ModelSourceDto;
beforeAll(() => {
  engine = Engine.open({ threads: 2 });
  scratch = mkdtempSync(join(tmpdir(), 'config-keys-'));
  for (const release of ['sd15', 'sdxl'] as const)
    writeRandomModel(join(scratch, release), {
      release,
      reduced: true,
      dtype: 'F32',
      variant: undefined,
      shardBytes: Number.POSITIVE_INFINITY,
      seed: 1,
    });
  ({ unet, vae } = readPipeline(join(scratch, 'sd15')));
  // It projects its pooled state.
  const tower = readPipeline(join(scratch, 'sdxl')).textTowers[1];
  if (tower === undefined) throw new Error('expected two towers');
  text = tower.source;
  const scenes = fileURLToPath(new URL('../../examples/scenes', import.meta.url));
  clip = readClipFolder(join(scenes, 'tiny-pickscore')).source;
});
afterAll(() => {
  engine.close();
  rmSync(scratch, { recursive: true });
});

const noise = (count: number, ...shape: number[]): TensorDto => ({
  data: engine.initialNoise(7n, count),
  shape,
});
const bits = (...tensors: TensorDto[]): string =>
  tensors
    .map(({ data }) =>
      Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'),
    )
    .join();
const ids = (count: number): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => (i * 37) % 500);

function withConfig(
  source: ModelSourceDto,
  change: (config: JsonObject) => JsonObject,
): ModelSourceDto {
  return { ...source, config: stringifyJson(change(configOf(source))) };
}

/** What a model computes, or why it does not. */
async function computed(work: () => Promise<string>): Promise<string> {
  try {
    return await work();
  } catch (error) {
    return (error as Error).message;
  }
}

const drawsWith = async (source: ModelSourceDto): Promise<string> => {
  const model = await engine.loadUnet(source, 'float32');
  try {
    return bits(await model.forward(noise(256, 1, 4, 8, 8), [500], noise(240, 1, 10, 24)));
  } finally {
    model.release();
  }
};
const codesWith = async (source: ModelSourceDto): Promise<string> => {
  const model = await engine.loadVae(source, 'float32');
  try {
    const { mean } = await model.encode(noise(3 * 256, 1, 3, 16, 16));
    return bits(mean, (await model.decode(noise(16, 1, 4, 2, 2))).pixels);
  } finally {
    model.release();
  }
};
const readsWith = async (source: ModelSourceDto): Promise<string> => {
  const model = await engine.loadClipText(source, 'float32');
  try {
    const states = await model.encode(ids(77), 1);
    return bits(states.lastHiddenState, states.penultimate, states.pooled);
  } finally {
    model.release();
  }
};
const judgesWith = async (source: ModelSourceDto): Promise<string> => {
  const model = await engine.loadClip(source, 'float32');
  try {
    const images = await model.imageEmbed(noise(3 * 64 * 64, 1, 3, 64, 64));
    return bits(images, await model.textEmbed(ids(32), 1));
  } finally {
    model.release();
  }
};

interface Kind {
  source: () => ModelSourceDto;
  result: (source: ModelSourceDto) => Promise<string>;
  /** Where in config.json the keys are. */
  part?: 'text_config' | 'vision_config';
  /** For every key that is read, another value. */
  changes: Record<string, JsonValue>;
  /** Keys that a reader before the engine answers to; another test names them. */
  elsewhere: string[];
}

const tower = {
  ...{ hidden_size: 8, intermediate_size: 8, num_hidden_layers: 9, num_attention_heads: 1 },
  ...{ hidden_act: 'quick_gelu', layer_norm_eps: 0.5 },
};
const kinds: Record<string, Kind> = {
  UNet2DConditionModel: {
    source: () => unet,
    result: drawsWith,
    // A matrix and a 1x1 filter compute the same: it says in which shape weights are written.
    elsewhere: ['sample_size', 'use_linear_projection'],
    changes: {
      ...{ in_channels: 5, out_channels: 5, flip_sin_to_cos: false, freq_shift: 1, norm_eps: 0.5 },
      ...{ block_out_channels: [8, 8, 8, 8], layers_per_block: 1, norm_num_groups: 2 },
      ...{ cross_attention_dim: 16, attention_head_dim: 1, transformer_layers_per_block: 2 },
      ...{ time_embedding_dim: 32, addition_time_embed_dim: 8 },
      projection_class_embeddings_input_dim: 8,
      down_block_types: Array.from({ length: 4 }, () => 'DownBlock2D'),
      up_block_types: Array.from({ length: 4 }, () => 'UpBlock2D'),
    },
  },
  AutoencoderKL: {
    source: () => vae,
    result: codesWith,
    elsewhere: ['scaling_factor'],
    changes: {
      ...{ in_channels: 4, out_channels: 4, latent_channels: 3, layers_per_block: 1 },
      ...{ norm_num_groups: 2, use_quant_conv: false, use_post_quant_conv: false },
      ...{ mid_block_add_attention: false, block_out_channels: [8, 8, 8, 8] },
      down_block_types: ['DownEncoderBlock2D'],
      up_block_types: ['UpDecoderBlock2D'],
    },
  },
  CLIPTextModel: {
    source: () => text,
    result: readsWith,
    elsewhere: [],
    changes: {
      ...tower,
      ...{ vocab_size: 500, max_position_embeddings: 78, eos_token_id: 37, projection_dim: 8 },
      architectures: ['CLIPTextModel'],
    },
  },
  CLIPTextConfig: {
    source: () => clip,
    result: judgesWith,
    part: 'text_config',
    elsewhere: [],
    changes: { ...tower, vocab_size: 500, max_position_embeddings: 78, eos_token_id: 37 },
  },
  CLIPVisionConfig: {
    source: () => clip,
    result: judgesWith,
    part: 'vision_config',
    elsewhere: [],
    changes: { ...tower, num_channels: 1, image_size: 32, patch_size: 16 },
  },
  CLIPConfig: {
    source: () => clip,
    result: judgesWith,
    elsewhere: [],
    changes: {
      ...{ projection_dim: 8, text_config: {}, vision_config: {} },
      ...{ text_config_dict: { hidden_size: 8 }, vision_config_dict: { hidden_size: 8 } },
    },
  },
};

function tableOf(name: string): ConfigKeys {
  const table = everyConfig.find(({ of }) => of === name);
  if (table === undefined) throw new Error(`expected a table of ${name}, got none`);
  return table;
}

/** A value that has no effect, unlike the one that is there. */
function idleValue(key: string, value: JsonValue | undefined): JsonValue {
  if (typeof value === 'boolean') return !value;
  if (typeof value === 'number') return value + 1;
  return key === 'dtype' || key === 'torch_dtype' ? 'float16' : true;
}

describe.each(Object.keys(kinds))('%s', (name) => {
  const table = tableOf(name);
  const { source, result, part, changes, elsewhere } = kinds[name] as Kind;
  const set = (change: JsonObject): ModelSourceDto =>
    withConfig(source(), (config) =>
      part === undefined
        ? { ...config, ...change }
        : { ...config, [part]: { ...(config[part] as JsonObject), ...change } },
    );

  it('refuses by name what is not computed, and nothing of what is', async () => {
    for (const [key, rule] of Object.entries(table.keys)) {
      if (rule.kind !== 'refused' || rule.by !== 'engine') continue;
      const odd = set({ [key]: oddValue(rule.unless) });
      expect(await computed(() => result(odd)), key).toMatch(new RegExp(`: ${key}: expected `));
      for (const value of rule.unless)
        expect(
          await computed(() => result(set({ [key]: value }))),
          `${key} ${stringifyJson(value)}`,
        ).not.toContain(`: ${key}: expected `);
    }
  });

  it('computes something else, or refuses the weights, where a key that is read changes', async () => {
    const keys = Object.entries(table.keys).filter(([, rule]) => rule.kind === 'read');
    expect([...Object.keys(changes), ...elsewhere].sort()).toEqual(keys.map(([key]) => key).sort());
    const own = await result(source());
    for (const [key, value] of Object.entries(changes))
      expect(await computed(() => result(set({ [key]: value }))), key).not.toBe(own);
  });

  it('computes the same whatever the other keys say, new ones too', async () => {
    const config = configOf(source());
    const values = part === undefined ? config : (config[part] as JsonObject);
    const idle = Object.entries(table.keys).filter(([, rule]) => rule.kind === 'no effect');
    const change = Object.fromEntries(idle.map(([key]) => [key, idleValue(key, values[key])]));
    expect(await computed(() => result(set({ ...change, of_a_newer_library: 1 })))).toBe(
      await result(source()),
    );
  });
});

/** A config on which every key that is read tells. */
const schedulers: Record<string, { base: JsonObject; changes: Record<string, JsonValue> }> = {
  DDIMScheduler: {
    base: { clip_sample: true },
    changes: { clip_sample: false, clip_sample_range: 0.5, set_alpha_to_one: false },
  },
  PNDMScheduler: {
    base: { skip_prk_steps: true },
    changes: { skip_prk_steps: false, set_alpha_to_one: true },
  },
  DPMSolverMultistepScheduler: {
    base: { final_sigmas_type: 'sigma_min', lower_order_final: false },
    changes: {
      ...{ solver_order: 1, solver_type: 'heun', lower_order_final: true, euler_at_final: true },
      ...{ use_karras_sigmas: true, final_sigmas_type: 'zero' },
      algorithm_type: 'sde-dpmsolver++',
    },
  },
  EulerDiscreteScheduler: {
    base: {},
    changes: { use_karras_sigmas: true, final_sigmas_type: 'sigma_min' },
  },
  DDPMScheduler: {
    base: { clip_sample: true },
    changes: { clip_sample: false, clip_sample_range: 0.5, variance_type: 'fixed_large' },
  },
  UniPCMultistepScheduler: {
    base: { final_sigmas_type: 'sigma_min', lower_order_final: false },
    changes: {
      ...{ solver_order: 3, solver_type: 'bh1', lower_order_final: true },
      ...{ disable_corrector: [1], use_karras_sigmas: true },
      // A higher order does not end at 0.
      final_sigmas_type: 'zero',
    },
  },
  EulerAncestralDiscreteScheduler: { base: {}, changes: {} },
  HeunDiscreteScheduler: {
    base: { clip_sample: true },
    changes: { clip_sample: false, clip_sample_range: 0.5, use_karras_sigmas: true },
  },
  LCMScheduler: {
    base: { clip_sample: true },
    changes: {
      ...{ clip_sample: false, clip_sample_range: 0.5, original_inference_steps: 30 },
      timestep_scaling: 0.001,
    },
  },
};

describe.each(Object.keys(schedulers))('%s', (name) => {
  const table = tableOf(name);
  const { base, changes } = schedulers[name] as (typeof schedulers)[string];
  const config = { _class_name: name, timestep_spacing: 'leading', beta_end: 0.012, ...base };
  const drawn = async (change: JsonObject): Promise<string> => {
    const model = await engine.loadUnet(unet, 'float32');
    try {
      const { latents } = await model.sample({
        ...{ cond: noise(240, 1, 10, 24), uncond: noise(240, 1, 10, 24), timeIds: [], seeds: [3n] },
        ...{ condPooled: null, uncondPooled: null, height: 8, width: 8, steps: 5, eta: 0 },
        ...{
          guidanceScale: 1,
          batchSize: 1,
          images: null,
          strength: 1,
          schedulerConfig: stringifyJson({ ...config, ...change }),
        },
      });
      return bits(latents);
    } finally {
      model.release();
    }
  };

  it('refuses by name what is not computed, and nothing of what is', () => {
    const message = (change: JsonObject): string => {
      try {
        engine.schedulerTimesteps(stringifyJson({ ...config, ...change }), 4);
        return '';
      } catch (error) {
        return (error as Error).message;
      }
    };
    for (const [key, rule] of Object.entries(table.keys)) {
      if (rule.kind !== 'refused') continue;
      expect(message({ [key]: oddValue(rule.unless) }), key).toContain(`: ${key}: expected `);
      for (const value of rule.unless) expect(message({ [key]: value }), key).toBe('');
    }
  });

  it('draws something else where a key that is read changes', async () => {
    const common = {
      ...{ num_train_timesteps: 500, beta_start: 0.001, beta_end: 0.02 },
      ...{ beta_schedule: 'squaredcos_cap_v2', prediction_type: 'v_prediction' },
      trained_betas: Array.from({ length: 1000 }, () => 0.01),
    };
    const spacing = { timestep_spacing: 'trailing', steps_offset: 1 };
    const every: Record<string, JsonValue> = {
      ...common,
      ...(name === 'LCMScheduler' ? {} : spacing),
      ...(/^(PNDM|Heun)/.test(name) ? {} : { rescale_betas_zero_snr: true }),
      ...changes,
    };
    const keys = Object.entries(table.keys).filter(([, rule]) => rule.kind === 'read');
    expect(Object.keys(every).sort()).toEqual(keys.map(([key]) => key).sort());
    const own = await drawn({});
    for (const [key, value] of Object.entries(every))
      expect(await computed(() => drawn({ [key]: value })), key).not.toBe(own);
  });

  it('draws the same whatever the other keys say', async () => {
    const idle = Object.entries(table.keys).filter(([, rule]) => rule.kind === 'no effect');
    const change = Object.fromEntries(idle.map(([key]) => [key, 'something']));
    const foreign = /^(predict|correct)or_order$|^tau_func$|^noise_/;
    // The reader drops those that none of the engine's schedulers knows.
    const known = Object.entries(change).filter(([key]) => !foreign.test(key));
    expect(known.length).toBeGreaterThan(5);
    expect(await drawn(Object.fromEntries(known))).toBe(await drawn({}));
  });
});

it('a folder without a key of a tower is read with the defaults of transformers', () => {
  const folder = join(scratch, 'sd15');
  const file = join(folder, 'text_encoder/config.json');
  const config = parseJson(readFileSync(file, 'utf8'), file) as JsonObject;
  const { max_position_embeddings: _positions, ...rest } = config;
  writeFileSync(file, stringifyJson(rest));
  expect(readPipeline(folder).textTokens).toBe(77);
});
