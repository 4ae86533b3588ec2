import {
  cpSync,
  mkdtempSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  readFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { readImagePreprocess } from '../judges/clip-preprocess.js';
import { parseJson, stringifyJson, type JsonObject } from '../files/json.js';
import { readClipFolder } from '../judges/judges.js';
import { defaultShardBytes, writeRandomModel } from '../released/write.js';
import { readPipeline } from './pipeline.js';
import { resolveScheduler } from './scheduler.js';

const scenes = fileURLToPath(new URL('../../../../examples/scenes', import.meta.url));
const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true })));

/**
 * A copy of the demo's pipeline whose weights are empty files: reading a pipeline opens none of
 * them.
 */
function copy(model = 'tiny-sd'): string {
  const folder = join(mkdtempSync(join(tmpdir(), 'pipeline-')), model);
  folders.push(join(folder, '..'));
  cpSync(join(scenes, model), folder, {
    recursive: true,
    filter: (file) => !file.endsWith('.safetensors'),
  });
  for (const file of model === 'tiny-sd'
    ? ['unet/diffusion_pytorch_model', 'vae/diffusion_pytorch_model', 'text_encoder/model']
    : ['model']) {
    writeFileSync(join(folder, `${file}.safetensors`), '');
  }
  return folder;
}

function edit(file: string, change: JsonObject): void {
  writeFileSync(
    file,
    stringifyJson({ ...(parseJson(readFileSync(file, 'utf8'), file) as JsonObject), ...change }),
  );
}

describe('readPipeline', () => {
  it("reads the demo's pipeline", () => {
    const pipeline = readPipeline(copy());
    expect(pipeline).toMatchObject({
      textTokens: 32,
      textWidth: 128,
      sampleSize: 16,
      warnings: [],
    });
    expect(pipeline.vaeScaling).toEqual({
      scalingFactor: 0.8186872005462646,
      shiftFactor: 0,
      scale: 4,
      latentChannels: 4,
    });
    expect(pipeline.scheduler['_class_name']).toBe('PNDMScheduler');
  });

  it('finds sharded weights and variants', () => {
    const folder = copy();
    const unet = join(folder, 'unet');
    renameSync(
      join(unet, 'diffusion_pytorch_model.safetensors'),
      join(unet, 'diffusion_pytorch_model.fp16.safetensors'),
    );
    expect(readPipeline(folder).unet.weights).toEqual([
      join(unet, 'diffusion_pytorch_model.fp16.safetensors'),
    ]);
    for (const part of ['b', 'a']) writeFileSync(join(unet, `${part}.safetensors`), '');
    const index = {
      weight_map: {
        'x.weight': 'b.safetensors',
        'y.weight': 'a.safetensors',
        'y.bias': 'a.safetensors',
      },
    };
    writeFileSync(
      join(unet, 'diffusion_pytorch_model.safetensors.index.json'),
      JSON.stringify(index),
    );
    expect(readPipeline(folder).unet.weights).toEqual([
      join(unet, 'a.safetensors'),
      join(unet, 'b.safetensors'),
    ]);
  });

  it.each<[string, (folder: string) => void, RegExp]>([
    [
      'a missing folder',
      (f) => rmSync(f, { recursive: true }),
      /tiny-sd: expected a pipeline folder in diffusers format, got no such folder/,
    ],
    [
      'a missing index',
      (f) => rmSync(join(f, 'model_index.json')),
      /model_index\.json: expected a readable file, got no such file/,
    ],
    [
      'another pipeline',
      (f) => edit(join(f, 'model_index.json'), { _class_name: 'FluxPipeline' }),
      /_class_name: expected StableDiffusionPipeline or StableDiffusionXLPipeline, got "FluxPipeline"/,
    ],
    [
      'another text encoder',
      (f) =>
        edit(join(f, 'model_index.json'), { text_encoder: ['transformers', 'T5EncoderModel'] }),
      /text_encoder: expected CLIPTextModel, got/,
    ],
    [
      'another scheduler',
      (f) =>
        edit(join(f, 'scheduler/scheduler_config.json'), {
          _class_name: 'FlowMatchEulerDiscreteScheduler',
        }),
      /_class_name: expected DDIMScheduler.*got "FlowMatchEulerDiscreteScheduler"/,
    ],
    [
      'latent statistics',
      (f) => edit(join(f, 'vae/config.json'), { latents_mean: [0, 0, 0, 0] }),
      /vae\/config\.json: latents_mean: expected null, got \[0,0,0,0\]/,
    ],
    [
      'a mismatched width',
      (f) => edit(join(f, 'unet/config.json'), { cross_attention_dim: 768 }),
      /cross_attention_dim: expected 128 .* got 768/,
    ],
    [
      'a mismatched channel count',
      (f) => edit(join(f, 'unet/config.json'), { in_channels: 9 }),
      /in_channels: expected 4 .* got 9/,
    ],
    [
      'a U-Net that predicts a variance',
      (f) => edit(join(f, 'unet/config.json'), { out_channels: 8 }),
      /out_channels: expected 4 .* got 8/,
    ],
    [
      'a U-Net that wants more than a text',
      (f) => edit(join(f, 'unet/config.json'), { addition_embed_type: 'text_time' }),
      /addition_embed_type: expected null in a StableDiffusionPipeline, got "text_time"/,
    ],
    [
      'a broken config',
      (f) => truncateSync(join(f, 'unet/config.json'), 20),
      /unet\/config\.json: expected JSON/,
    ],
    [
      'pickle files',
      (f) =>
        renameSync(
          join(f, 'vae/diffusion_pytorch_model.safetensors'),
          join(f, 'vae/diffusion_pytorch_model.bin'),
        ),
      /vae\/diffusion_pytorch_model\.bin: pickle files are refused/,
    ],
    [
      'no weights',
      (f) => rmSync(join(f, 'vae/diffusion_pytorch_model.safetensors')),
      /vae: expected diffusion_pytorch_model\.safetensors or its index/,
    ],
    [
      'an index that leaves the folder',
      (f) => {
        rmSync(join(f, 'unet/diffusion_pytorch_model.safetensors'));
        writeFileSync(
          join(f, 'unet/diffusion_pytorch_model.safetensors.index.json'),
          '{"weight_map":{"a":"../../x.safetensors"}}',
        );
      },
      /weight_map\.a: expected the name of a safetensors file in the same folder/,
    ],
  ])('refuses %s by name', (_name, damage, message) => {
    const folder = copy();
    damage(folder);
    expect(() => readPipeline(folder)).toThrow(message);
    folders.splice(0).forEach((parent) => rmSync(parent, { recursive: true, force: true }));
  });
});

it('resolves a scheduler from the pipeline, a class name and overrides', () => {
  const base = { _class_name: 'PNDMScheduler', beta_start: 0.1, lambda_min_clipped: -Infinity };
  expect(resolveScheduler(base, '', '')).toBe(
    '{"_class_name":"PNDMScheduler","beta_start":0.1,"lambda_min_clipped":-Infinity}',
  );
  expect(resolveScheduler(base, 'DDIMScheduler', '{"beta_start":0.2}')).toBe(
    '{"_class_name":"DDIMScheduler","beta_start":0.2,"lambda_min_clipped":-Infinity,"clip_sample":false}',
  );
  expect(resolveScheduler({ ...base, clip_sample: true }, 'DDIMScheduler', '')).toContain(
    '"clip_sample":true',
  );
  expect(resolveScheduler({ _class_name: 'DDIMScheduler' }, 'DDIMScheduler', '')).toBe(
    '{"_class_name":"DDIMScheduler"}',
  );
  expect(() => resolveScheduler(base, 'DDIM', '')).toThrow(
    /scheduler: _class_name: expected DDIMScheduler.*got "DDIM"/,
  );
  expect(() => resolveScheduler(base, '', '[1]')).toThrow(
    /scheduler_overrides_json: expected a JSON object/,
  );
});

it('puts a named class in the place of one that is not sampled with, and keeps what both read', () => {
  const uniPc = {
    _class_name: 'UniPCMultistepScheduler',
    beta_end: 0.012,
    clip_sample: false,
    predict_x0: true,
    solver_order: 2,
    solver_type: 'bh2',
  };
  expect(resolveScheduler(uniPc, 'DPMSolverMultistepScheduler', '')).toBe(
    '{"_class_name":"DPMSolverMultistepScheduler","beta_end":0.012,"clip_sample":false,"solver_order":2}',
  );
  expect(() => resolveScheduler(uniPc, '', '')).toThrow(
    /_class_name: expected DDIMScheduler.*got "UniPCMultistepScheduler"; name one of these instead with --scheduler/,
  );
  // Keys that are asked for are never dropped.
  expect(resolveScheduler(uniPc, 'DDIMScheduler', '{"no_such_key":1}')).toContain('no_such_key');
});

it("knows the empty prompt of SDXL as zeros where model_index.json does not say, as SDXL's pipeline does", () => {
  const folder = mkdtempSync(join(tmpdir(), 'pipeline-'));
  folders.push(folder);
  const model = join(folder, 'sdxl');
  writeRandomModel(model, {
    release: 'sdxl',
    reduced: true,
    dtype: 'F16',
    variant: undefined,
    shardBytes: defaultShardBytes,
    seed: 0,
  });
  const index = join(model, 'model_index.json');
  const { force_zeros_for_empty_prompt: stated, ...rest } = parseJson(
    readFileSync(index, 'utf8'),
    index,
  ) as JsonObject;
  expect(stated).toBe(true);
  writeFileSync(index, stringifyJson(rest));
  expect(readPipeline(model).zeroEmptyPrompt).toBe(true);
  for (const value of [false, null]) {
    writeFileSync(index, stringifyJson({ ...rest, force_zeros_for_empty_prompt: value }));
    expect(readPipeline(model).zeroEmptyPrompt).toBe(false);
  }
  const other = copy();
  edit(join(other, 'model_index.json'), { force_zeros_for_empty_prompt: true });
  expect(readPipeline(other).zeroEmptyPrompt).toBe(false);
});

describe('CLIP folders', () => {
  it("reads the demo's judge", () => {
    const folder = readClipFolder(copy('tiny-pickscore'));
    expect(folder.preprocess).toEqual({
      resize: 64,
      cropHeight: 64,
      cropWidth: 64,
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
      method: 'transformers',
      filter: 'bicubic',
      rescale: 0.00392156862745098,
    });
    expect(folder.textTokens).toBe(32);
  });

  it('reads what transformers 5 writes into processor_config.json, and prefers it', () => {
    const folder = copy('tiny-pickscore');
    const file = join(folder, 'preprocessor_config.json');
    const own = parseJson(readFileSync(file, 'utf8'), file) as JsonObject;
    const expected = readImagePreprocess(folder, 64);
    writeFileSync(
      join(folder, 'processor_config.json'),
      stringifyJson({ image_processor: own, processor_class: 'CLIPProcessor' }),
    );
    edit(file, { image_mean: [0.1, 0.1, 0.1] });
    expect(readImagePreprocess(folder, 64)).toEqual(expected);
    rmSync(file);
    expect(readImagePreprocess(folder, 64)).toEqual(expected);
    expect(readClipFolder(folder).warnings).toEqual([]);
    // Of before transformers 5: there it says nothing of images.
    writeFileSync(join(folder, 'processor_config.json'), '{"processor_class":"CLIPProcessor"}');
    expect(readImagePreprocess(folder, 64).mean).toEqual([0.48145466, 0.4578275, 0.40821073]);
    expect(readClipFolder(folder).warnings).toEqual([
      expect.stringMatching(
        /no preprocessor_config\.json and no processor_config\.json; images are normalised with CLIP's mean \[0\.48145466/,
      ),
    ]);
  });

  it("takes open_clip's mean and std from its config", () => {
    const folder = mkdtempSync(join(tmpdir(), 'open-clip-'));
    folders.push(folder);
    writeFileSync(
      join(folder, 'open_clip_config.json'),
      '{"preprocess_cfg":{"mean":[0.5,0.5,0.5],"std":[0.25,0.25,0.25]}}',
    );
    expect(readImagePreprocess(folder, 32)).toMatchObject({
      mean: [0.5, 0.5, 0.5],
      std: [0.25, 0.25, 0.25],
      resize: 32,
      method: 'torchvision',
    });
    const cut = (more: string): void =>
      writeFileSync(join(folder, 'open_clip_config.json'), `{"preprocess_cfg":{${more}}}`);
    cut('"interpolation":"bilinear","resize_mode":"shortest"');
    expect(readImagePreprocess(folder, 32)).toMatchObject({ filter: 'bilinear' });
    cut('"resize_mode":"squash"');
    expect(() => readImagePreprocess(folder, 32)).toThrow(
      /preprocess_cfg: resize_mode: expected "shortest", got "squash"/,
    );
    cut('"interpolation":"area"');
    expect(() => readImagePreprocess(folder, 32)).toThrow(/interpolation: expected .*, got "area"/);
  });

  it.each([
    [0, 'nearest'],
    [1, 'lanczos'],
    [2, 'bilinear'],
    [4, 'box'],
    [5, 'hamming'],
  ])('resizes as resample %i says', (resample, filter) => {
    const folder = copy('tiny-pickscore');
    edit(join(folder, 'preprocessor_config.json'), { resample });
    expect(readImagePreprocess(folder, 64)).toMatchObject({ filter });
  });

  it('refuses preprocessing that it does not do', () => {
    const folder = copy('tiny-pickscore');
    const file = join(folder, 'preprocessor_config.json');
    for (const [change, message] of [
      [{ do_center_crop: false }, /do_center_crop: expected true, got false/],
      [{ resample: 8 }, /resample: expected 0 \(nearest\), .*, 7 \(mks2021\), got 8/],
      [{ resample: 'bicubic' }, /resample: expected 0 \(nearest\), .*, got "bicubic"/],
      [{ crop_size: 32 }, /crop_size: expected 64x64 \(the model's image_size\), got 32x32/],
      [{ size: { height: 64, width: 64 } }, /size: expected \{"shortest_edge": N\}/],
      [{ image_mean: [0.5] }, /image_mean: expected three numbers, got \[0\.5\]/],
    ] as const) {
      const original = readFileSync(file, 'utf8');
      edit(file, change as unknown as JsonObject);
      expect(() => readImagePreprocess(folder, 64)).toThrow(message);
      writeFileSync(file, original);
    }
  });
});
