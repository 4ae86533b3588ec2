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
import { readPipeline, readVaeScaling } from './pipeline.js';
import { latentSize } from './text-to-image.js';
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
      sampleSize: { height: 16, width: 16 },
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

describe("what diffusers' pipeline makes of a folder's configs", () => {
  const schedulerFile = 'scheduler/scheduler_config.json';
  const replace = (file: string, config: JsonObject): void =>
    writeFileSync(file, stringifyJson(config));

  it("takes steps_offset 1 and clip_sample false in Stable Diffusion's pipeline, whatever the file says", () => {
    const folder = copy();
    edit(join(folder, 'model_index.json'), { scheduler: ['diffusers', 'DDIMScheduler'] });
    const file = join(folder, schedulerFile);
    replace(file, { _class_name: 'DDIMScheduler' });
    const silent = readPipeline(folder);
    expect(silent.scheduler).toMatchObject({ steps_offset: 1, clip_sample: false });
    expect(silent.warnings).toEqual([]);
    replace(file, { _class_name: 'DDIMScheduler', steps_offset: 0, clip_sample: true });
    const stated = readPipeline(folder);
    expect(stated.scheduler).toEqual(silent.scheduler);
    expect(stated.warnings).toEqual([
      expect.stringMatching(/steps_offset: 1 is taken for 0, as diffusers' StableDiffusionPipe/),
      expect.stringMatching(/clip_sample: false is taken for true, as diffusers'/),
    ]);
    // What is asked for in so many words is done.
    expect(resolveScheduler(stated.scheduler, '', '{"clip_sample":true}')).toContain(
      '"clip_sample":true',
    );
  });

  it("leaves a scheduler's file alone in SDXL's pipeline", () => {
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
    const own = { _class_name: 'EulerDiscreteScheduler', steps_offset: 0, clip_sample: true };
    replace(join(model, schedulerFile), own);
    expect(readPipeline(model).scheduler).toEqual(own);
  });

  it('takes the class of model_index.json for the settings of scheduler_config.json', () => {
    const folder = copy();
    edit(join(folder, 'model_index.json'), {
      scheduler: ['diffusers', 'DPMSolverMultistepScheduler'],
    });
    const { scheduler, warnings } = readPipeline(folder);
    expect(scheduler).toMatchObject({
      _class_name: 'DPMSolverMultistepScheduler',
      beta_start: 0.00085,
    });
    expect(warnings).toEqual([
      expect.stringMatching(
        /model_index\.json: scheduler: DPMSolverMultistepScheduler is taken with the settings of .*scheduler_config\.json, which are of "PNDMScheduler"/,
      ),
    ]);
    edit(join(folder, 'model_index.json'), { scheduler: ['diffusers', 'EDMEulerScheduler'] });
    expect(() => readPipeline(folder)).toThrow(
      /model_index\.json: scheduler: expected DDIMScheduler, .*got "EDMEulerScheduler"/,
    );
  });

  it('drops the keys of other schedulers, and names those that none has', () => {
    const folder = copy();
    edit(join(folder, schedulerFile), { tau_func: 'x', noise_sampler_seed: null, newer: 1 });
    const { scheduler, warnings } = readPipeline(folder);
    for (const key of ['tau_func', 'noise_sampler_seed', 'newer'])
      expect(scheduler).not.toHaveProperty(key);
    expect(warnings).toEqual([
      expect.stringMatching(/scheduler_config\.json: newer: no key of PNDMScheduler in diffusers/),
    ]);
  });

  it('draws at the height and width of a sample_size that is a pair', () => {
    const folder = copy();
    const file = join(folder, 'unet/config.json');
    edit(file, { sample_size: [16, 24] });
    const pipeline = readPipeline(folder);
    expect(latentSize(pipeline, 0, 0)).toEqual({ height: 16, width: 24 });
    expect(latentSize(pipeline, 128, 0)).toEqual({ height: 32, width: 24 });
    edit(file, { sample_size: [16, 24, 32] });
    expect(() => readPipeline(folder)).toThrow(
      /sample_size: expected a number or two \(height and width\), got \[16,24,32\]/,
    );
  });

  it.each([
    ['0.8.1', 32, 64],
    ['0.8.1', 96, 96],
    ['0.9.0.dev0', 32, 32],
    ['0.42.1', 32, 32],
    ['0.18.0', 32, 32],
  ])('of diffusers %s, sample_size %i is %i', (version, stated, taken) => {
    const folder = copy();
    edit(join(folder, 'unet/config.json'), { sample_size: stated, _diffusers_version: version });
    const { sampleSize, warnings } = readPipeline(folder);
    expect(sampleSize).toEqual({ height: taken, width: taken });
    expect(warnings).toHaveLength(stated === taken ? 0 : 1);
  });

  it('names the unknown keys of every file once', () => {
    const folder = copy();
    const files = ['model_index.json', 'tokenizer/tokenizer_config.json'];
    const parts = ['unet', 'vae', 'text_encoder'].map((part) => `${part}/config.json`);
    for (const file of [...files, ...parts]) edit(join(folder, file), { newer: 1, older: 2 });
    const { warnings } = readPipeline(folder);
    expect(warnings).toHaveLength(5);
    for (const file of [...files, ...parts])
      expect(
        warnings.filter((warning) => warning.includes(`${file}: newer, older: no key of`)),
      ).toHaveLength(1);
  });

  it('takes null for no default of a number, as the library does not', () => {
    const source = { config: '{"scaling_factor":null}', weights: [], label: 'vae' };
    expect(() => readVaeScaling(source)).toThrow(/scaling_factor: expected a number, got null/);
    const shifted = { ...source, config: '{"shift_factor":null}' };
    expect(readVaeScaling(shifted).shiftFactor).toBe(0);
  });

  it('takes the defaults of a VAE that says nothing of its blocks', () => {
    const source = { config: '{}', weights: [], label: 'vae' };
    expect(readVaeScaling(source)).toEqual({
      scalingFactor: 0.18215,
      shiftFactor: 0,
      scale: 1,
      latentChannels: 4,
    });
  });
});

it.each(['vae', 'text_encoder', 'tokenizer', 'unet', 'scheduler'])(
  'refuses another class of %s in model_index.json',
  (key) => {
    const folder = copy();
    edit(join(folder, 'model_index.json'), { [key]: ['library', 'Another'] });
    expect(() => readPipeline(folder)).toThrow(
      new RegExp(`model_index\\.json: ${key}: expected \\w+.*, got .*Another`),
    );
  },
);

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
  const deis = {
    _class_name: 'DEISMultistepScheduler',
    beta_end: 0.012,
    clip_sample: false,
    tau_func: 'none',
    solver_order: 2,
    solver_type: 'logrho',
    algorithm_type: 'deis',
  };
  expect(resolveScheduler(deis, 'DPMSolverMultistepScheduler', '')).toBe(
    '{"_class_name":"DPMSolverMultistepScheduler","beta_end":0.012,"clip_sample":false,"solver_order":2}',
  );
  // Between classes that we sample with, too.
  const own = { _class_name: 'UniPCMultistepScheduler', beta_end: 0.012, solver_type: 'bh2' };
  expect(resolveScheduler(own, 'DPMSolverMultistepScheduler', '')).toBe(
    '{"_class_name":"DPMSolverMultistepScheduler","beta_end":0.012}',
  );
  const ddpm = { _class_name: 'DDPMScheduler', variance_type: 'fixed_large', clip_sample: true };
  expect(resolveScheduler(ddpm, 'DPMSolverMultistepScheduler', '')).toBe(
    '{"_class_name":"DPMSolverMultistepScheduler","clip_sample":true}',
  );
  expect(
    resolveScheduler({ ...ddpm, _class_name: 'DDPMParallelScheduler' }, 'DDPMScheduler', ''),
  ).toBe('{"_class_name":"DDPMScheduler","variance_type":"fixed_large","clip_sample":true}');
  expect(resolveScheduler(own, 'DDPMScheduler', '')).toContain('"clip_sample":false');
  expect(() => resolveScheduler(deis, '', '')).toThrow(
    /_class_name: expected DDIMScheduler.*got "DEISMultistepScheduler"; name one of these instead with --scheduler/,
  );
});

it('refuses a key in overrides that the class does not read, and takes those that it reads', () => {
  const base = { _class_name: 'PNDMScheduler' };
  for (const [className, overrides] of [
    ['DDIMScheduler', '{"no_such_key":1}'],
    ['', '{"use_karras_sigmas":1}'],
  ] as const)
    expect(() => resolveScheduler(base, className, overrides)).toThrow(
      /^overrides: (no_such_key|use_karras_sigmas): expected a key that (DDIM|PNDM)Scheduler reads \(.*prediction_type\), got this one with value 1$/,
    );
  expect(resolveScheduler(base, 'EulerDiscreteScheduler', '{"use_karras_sigmas":true}')).toContain(
    '"use_karras_sigmas":true',
  );
  // The engine refuses values of such a key by name.
  expect(resolveScheduler(base, 'DDIMScheduler', '{"thresholding":true}')).toContain(
    '"thresholding":true',
  );
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
  writeFileSync(index, stringifyJson({ ...rest, force_zeros_for_empty_prompt: 'no' }));
  expect(() => readPipeline(model)).toThrow(
    /force_zeros_for_empty_prompt: expected true or false, got "no"/,
  );
  const other = copy();
  edit(join(other, 'model_index.json'), { force_zeros_for_empty_prompt: true });
  expect(readPipeline(other).zeroEmptyPrompt).toBe(false);
});

describe('CLIP folders', () => {
  it('reads a tower that is said twice as transformers does, and defaults where none is', () => {
    const folder = copy('tiny-pickscore');
    const file = join(folder, 'config.json');
    const { text_config: text } = parseJson(readFileSync(file, 'utf8'), file) as {
      text_config: JsonObject;
    };
    edit(file, { text_config_dict: { ...text, max_position_embeddings: 24, newer: 1 } });
    const { textTokens, warnings } = readClipFolder(folder);
    expect(textTokens).toBe(24);
    expect(warnings).toEqual([
      expect.stringMatching(/config\.json: text_config: newer: no key of CLIPTextConfig/),
    ]);
    edit(file, { text_config_dict: null, text_config: null });
    edit(join(folder, 'tokenizer/tokenizer_config.json'), { model_max_length: 100 });
    expect(readClipFolder(folder).textTokens).toBe(77);
  });

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
      /preprocess_cfg: resize_mode: expected "shortest" .*, got "squash"/,
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
      [
        { do_center_crop: false },
        /do_center_crop: expected true \(other values are not supported\), got false/,
      ],
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
