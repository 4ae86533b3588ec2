import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readPipeline } from '../pipeline/pipeline.js';
import { releaseConfigs, releases, type Release } from '../released/configs.js';
import { unetShapes } from '../released/tensors.js';
import { writeRandomModel } from '../released/write.js';
import {
  readSafetensorsHeader,
  tensorBytes,
  writeSafetensorsFile,
  type TensorSource,
} from '@spindle/kit';
import { dictPickle, tensorPickle, torchZip } from '../testing/torch-archives.js';
import { readJsonObject, type JsonObject } from '../files/json.js';
import { convert } from './convert.js';
import { bytesOf, RandomFile, safetensorsSources } from './files.js';
import { ldmUnetSource } from './ldm-names.js';

const scratch = mkdtempSync(join(tmpdir(), 'convert-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const none = { tokenizer: undefined, like: undefined, prediction: undefined };

function model(release: Release): string {
  const folder = join(scratch, release);
  if (!existsSync(folder))
    writeRandomModel(folder, {
      release,
      reduced: true,
      dtype: 'F16',
      variant: undefined,
      shardBytes: Number.POSITIVE_INFINITY,
      seed: 5,
    });
  return folder;
}

interface Tensor {
  dtype: TensorSource['dtype'];
  shape: readonly number[];
  bytes: Buffer;
}

function tensorsOf(path: string): Map<string, Tensor> {
  const file = new RandomFile(path);
  try {
    return new Map(
      safetensorsSources(file).map((source) => [
        source.name,
        { dtype: source.dtype, shape: source.shape, bytes: bytesOf(source) },
      ]),
    );
  } finally {
    file.close();
  }
}

function write(path: string, tensors: Map<string, Tensor>): void {
  mkdirSync(dirname(path), { recursive: true });
  writeSafetensorsFile(
    path,
    [...tensors].map(([name, { dtype, shape, bytes }]) => ({
      name,
      dtype,
      shape,
      chunks: () => [bytes],
    })),
  );
}

/**
 * A folder's tensors in one file under the original code's names: the layout of the original
 * modules, walked in their order (a list of blocks per side), where the converter computes names
 * from diffusers' own.
 */
function singleFile(release: Release): Map<string, Tensor> {
  const folder = model(release);
  const out = new Map<string, Tensor>();
  const configs = releaseConfigs(release, true);
  const unet = tensorsOf(join(folder, 'unet/diffusion_pytorch_model.safetensors'));
  const has = (prefix: string): boolean =>
    [...unet.keys()].some((name) => name.startsWith(`${prefix}.`));
  const move = (
    from: Map<string, Tensor>,
    prefix: string,
    to: string,
    rename: (rest: string) => string = (rest) => rest,
  ): void => {
    for (const [name, tensor] of from)
      if (name.startsWith(prefix)) out.set(to + rename(name.slice(prefix.length)), tensor);
  };
  const resnet = (rest: string): string =>
    rest
      .replace('norm1.', 'in_layers.0.')
      .replace('conv1.', 'in_layers.2.')
      .replace('time_emb_proj.', 'emb_layers.1.')
      .replace('norm2.', 'out_layers.0.')
      .replace('conv2.', 'out_layers.3.')
      .replace('conv_shortcut.', 'skip_connection.');
  const root = 'model.diffusion_model.';
  move(unet, 'conv_in.', `${root}input_blocks.0.0.`);
  move(unet, 'time_embedding.linear_', `${root}time_embed.`, (rest) => rest.replace(/^1/, '0'));
  move(unet, 'add_embedding.linear_', `${root}label_emb.0.`, (rest) => rest.replace(/^1/, '0'));
  const levels = (configs.unet['block_out_channels'] as number[]).length;
  let entry = 1;
  for (let level = 0; level < levels; level++) {
    for (let layer = 0; layer < 2; layer++, entry++) {
      move(
        unet,
        `down_blocks.${level}.resnets.${layer}.`,
        `${root}input_blocks.${entry}.0.`,
        resnet,
      );
      move(unet, `down_blocks.${level}.attentions.${layer}.`, `${root}input_blocks.${entry}.1.`);
    }
    if (has(`down_blocks.${level}.downsamplers`))
      move(
        unet,
        `down_blocks.${level}.downsamplers.0.conv.`,
        `${root}input_blocks.${entry++}.0.op.`,
      );
  }
  move(unet, 'mid_block.resnets.0.', `${root}middle_block.0.`, resnet);
  move(unet, 'mid_block.attentions.0.', `${root}middle_block.1.`);
  move(unet, 'mid_block.resnets.1.', `${root}middle_block.2.`, resnet);
  entry = 0;
  for (let block = 0; block < levels; block++) {
    for (let layer = 0; layer < 3; layer++, entry++) {
      let place = 0;
      move(
        unet,
        `up_blocks.${block}.resnets.${layer}.`,
        `${root}output_blocks.${entry}.${place++}.`,
        resnet,
      );
      if (has(`up_blocks.${block}.attentions.${layer}`))
        move(
          unet,
          `up_blocks.${block}.attentions.${layer}.`,
          `${root}output_blocks.${entry}.${place++}.`,
        );
      if (layer === 2)
        move(unet, `up_blocks.${block}.upsamplers.0.`, `${root}output_blocks.${entry}.${place}.`);
    }
  }
  move(unet, 'conv_norm_out.', `${root}out.0.`);
  move(unet, 'conv_out.', `${root}out.2.`);

  const vae = tensorsOf(join(folder, 'vae/diffusion_pytorch_model.safetensors'));
  const plain = (rest: string): string => rest.replace('conv_shortcut.', 'nin_shortcut.');
  for (const side of ['encoder', 'decoder']) {
    const at = `first_stage_model.${side}.`;
    for (const name of ['conv_in.', 'conv_out.']) move(vae, `${side}.${name}`, at + name);
    move(vae, `${side}.conv_norm_out.`, `${at}norm_out.`);
    for (const i of [0, 1])
      move(vae, `${side}.mid_block.resnets.${i}.`, `${at}mid.block_${i + 1}.`);
    for (const [names, to] of [
      [['group_norm'], 'norm'],
      [['query', 'to_q'], 'q'],
      [['key', 'to_k'], 'k'],
      [['value', 'to_v'], 'v'],
      [['proj_attn', 'to_out.0'], 'proj_out'],
    ] as const)
      for (const name of names)
        move(vae, `${side}.mid_block.attentions.0.${name}.`, `${at}mid.attn_1.${to}.`);
    for (let level = 0; level < 4; level++) {
      const [from, to] =
        side === 'encoder'
          ? [`${side}.down_blocks.${level}`, `${at}down.${level}`]
          : [`${side}.up_blocks.${3 - level}`, `${at}up.${level}`];
      for (let layer = 0; layer < 3; layer++)
        move(vae, `${from}.resnets.${layer}.`, `${to}.block.${layer}.`, plain);
      move(vae, `${from}.downsamplers.0.`, `${to}.downsample.`);
      move(vae, `${from}.upsamplers.0.`, `${to}.upsample.`);
    }
  }
  for (const name of ['quant_conv.', 'post_quant_conv.'])
    move(vae, name, `first_stage_model.${name}`);
  // The original attention is made of 1x1 convolutions.
  for (const [name, tensor] of out)
    if (/attn_1\.(q|k|v|proj_out)\.weight$/.test(name))
      out.set(name, { ...tensor, shape: [...tensor.shape, 1, 1] });

  const texts = configs.textEncoders.map((_, n) =>
    tensorsOf(join(folder, `text_encoder${n === 0 ? '' : '_2'}/model.safetensors`)),
  );
  const first = texts[0] ?? new Map<string, Tensor>();
  if (release === 'sd15') move(first, 'text_model.', 'cond_stage_model.transformer.text_model.');
  if (release === 'sdxl')
    move(first, 'text_model.', 'conditioner.embedders.0.transformer.text_model.');
  const open =
    release === 'sd21'
      ? ([first, 'cond_stage_model.model.'] as const)
      : release === 'sdxl'
        ? ([texts[1], 'conditioner.embedders.1.model.'] as const)
        : undefined;
  if (open?.[0] !== undefined) openClip(open[0], open[1], out);
  const buffer: Tensor = { dtype: 'F32', shape: [2], bytes: Buffer.alloc(8) };
  for (const name of ['betas', 'alphas_cumprod', 'model_ema.decay']) out.set(name, buffer);
  return out;
}

function openClip(from: Map<string, Tensor>, prefix: string, out: Map<string, Tensor>): void {
  const get = (name: string): Tensor => {
    const tensor = from.get(name);
    if (tensor === undefined) throw new Error(name);
    return tensor;
  };
  out.set(`${prefix}token_embedding.weight`, get('text_model.embeddings.token_embedding.weight'));
  out.set(`${prefix}positional_embedding`, get('text_model.embeddings.position_embedding.weight'));
  for (const kind of ['weight', 'bias']) {
    out.set(`${prefix}ln_final.${kind}`, get(`text_model.final_layer_norm.${kind}`));
    for (
      let layer = 0;
      from.has(`text_model.encoder.layers.${layer}.layer_norm1.weight`);
      layer++
    ) {
      const [at, block] = [
        `text_model.encoder.layers.${layer}.`,
        `${prefix}transformer.resblocks.${layer}.`,
      ];
      const packed = ['q', 'k', 'v'].map((part) => get(`${at}self_attn.${part}_proj.${kind}`));
      const [query] = packed;
      if (query === undefined) throw new Error('expected a query');
      out.set(`${block}attn.in_proj_${kind}`, {
        ...query,
        shape: [3 * (query.shape[0] ?? 0), ...query.shape.slice(1)],
        bytes: Buffer.concat(packed.map(({ bytes }) => bytes)),
      });
      for (const [name, to] of [
        ['self_attn.out_proj', 'attn.out_proj'],
        ['layer_norm1', 'ln_1'],
        ['layer_norm2', 'ln_2'],
        ['mlp.fc1', 'mlp.c_fc'],
        ['mlp.fc2', 'mlp.c_proj'],
      ])
        out.set(`${block}${to}.${kind}`, get(`${at}${name}.${kind}`));
    }
  }
  const projection = from.get('text_projection.weight');
  if (projection === undefined) return;
  const [rows = 0, columns = 0] = projection.shape;
  const values = new Uint16Array(new Uint8Array(projection.bytes).buffer);
  const turned = new Uint16Array(values.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) turned[j * rows + i] = values[i * columns + j] ?? 0;
  out.set(`${prefix}text_projection`, {
    ...projection,
    shape: [columns, rows],
    bytes: Buffer.from(turned.buffer),
  });
}

function expectSame(got: Tensor, expected: Tensor | undefined, where: string): void {
  expect(
    [got.dtype, got.shape, expected !== undefined && got.bytes.equals(expected.bytes)],
    where,
  ).toEqual([expected?.dtype, expected?.shape, true]);
}

/** Legacy attention names aside, which the converter never writes. */
function expectSameModel(got: string, expected: string): void {
  const parts = readdirSync(expected).filter((name) =>
    existsSync(join(expected, name, 'config.json')),
  );
  for (const part of parts) {
    const file = part.startsWith('text')
      ? 'model.safetensors'
      : 'diffusion_pytorch_model.safetensors';
    const modern = new Map(
      [...tensorsOf(join(expected, part, file))].map(([name, tensor]) => [
        part === 'vae'
          ? name
              .replace('.query.', '.to_q.')
              .replace('.key.', '.to_k.')
              .replace('.value.', '.to_v.')
              .replace('.proj_attn.', '.to_out.0.')
          : name,
        tensor,
      ]),
    );
    modern.delete('text_model.embeddings.position_ids');
    const tensors = tensorsOf(join(got, part, file));
    expect([...tensors.keys()].sort(), part).toEqual([...modern.keys()].sort());
    for (const [name, tensor] of tensors) expectSame(tensor, modern.get(name), `${part}: ${name}`);
  }
}

describe('a checkpoint in one file', () => {
  it.each(releases)('of %s becomes the folder that it came from', (release) => {
    const file = join(scratch, `${release}.safetensors`);
    write(file, singleFile(release));
    const to = join(scratch, `${release}-converted`);
    const done = convert(file, to, { ...none, like: model(release) });
    expect(done.notes).toEqual([]);
    expectSameModel(to, model(release));
    expect(readPipeline(to)).toMatchObject({
      kind: release === 'sdxl' ? 'StableDiffusionXLPipeline' : 'StableDiffusionPipeline',
      warnings: [],
    });
  });

  const read = (...names: string[]): JsonObject => readJsonObject(join(...names));
  const mark = { dtype: 'F32' as const, shape: [0], bytes: Buffer.alloc(0) };
  const marked = (release: Release, ...marks: string[]): string => {
    const file = join(scratch, `${[release, ...marks].join('-')}.safetensors`);
    write(file, new Map([...singleFile(release), ...marks.map((name) => [name, mark] as const)]));
    return file;
  };

  it.each(releases)(
    'of %s that marks velocity and zero terminal SNR gets that scheduler',
    (release) => {
      const to = join(scratch, `${release}-marked`);
      const { notes } = convert(marked(release, 'v_pred', 'ztsnr'), to, {
        ...none,
        like: model(release),
      });
      expect(notes).toEqual([
        expect.stringMatching(/\(v_pred\).*prediction_type is v_prediction/),
        expect.stringMatching(/\(ztsnr\).*rescale_betas_zero_snr is true/),
      ]);
      const scheduler = read(to, 'scheduler', 'scheduler_config.json');
      expect(scheduler).toMatchObject({
        prediction_type: 'v_prediction',
        rescale_betas_zero_snr: true,
        timestep_spacing: 'trailing',
      });
      expect(scheduler['_class_name']).not.toBe('PNDMScheduler');
      expect(read(to, 'model_index.json')['scheduler']).toEqual([
        'diffusers',
        scheduler['_class_name'],
      ]);
    },
  );

  it.each(releases)('of %s predicts what --prediction says, also with --like', (release) => {
    for (const prediction of ['v_prediction', 'epsilon'] as const) {
      const to = join(scratch, `${release}-${prediction}`);
      const done = convert(marked(release, 'v_pred'), to, {
        ...none,
        like: model(release),
        prediction,
      });
      expect(read(to, 'scheduler', 'scheduler_config.json')['prediction_type']).toBe(prediction);
      expect(done.notes).toHaveLength(1);
    }
  });

  it('writes configs that transformers 5 reads: floats are floats', () => {
    const to = join(scratch, 'sd15-floats');
    convert(marked('sd15'), to, { ...none, like: model('sd15') });
    for (const folder of [to, model('sd15')])
      expect(readFileSync(join(folder, 'text_encoder', 'config.json'), 'utf8')).toContain(
        '"initializer_factor": 1.0,',
      );
  });

  it('refuses options that it would not use', () => {
    const file = marked('sd15');
    const to = join(scratch, 'unused.safetensors');
    expect(() => convert(file, to, { ...none, prediction: 'epsilon' })).toThrow(
      /--prediction: expected nothing where tensors keep their names/,
    );
    const both = { ...none, like: model('sd15'), tokenizer: join(model('sd15'), 'tokenizer') };
    expect(() => convert(file, join(scratch, 'both'), both)).toThrow(
      /--tokenizer: expected nothing beside --like/,
    );
  });

  it('may be a pickle', () => {
    const tensors = [...singleFile('sd15')];
    const types: Partial<Record<string, string>> = {
      F16: 'HalfStorage',
      F32: 'FloatStorage',
      I64: 'LongStorage',
    };
    const body = dictPickle(
      tensors.map(([name, { dtype, shape }], i) => {
        const stride = shape.map((_, d) =>
          shape.slice(d + 1).reduce((product, n) => product * n, 1),
        );
        const elements = shape.reduce((product, n) => product * n, 1);
        return [
          name,
          tensorPickle({
            name,
            type: types[dtype] ?? '',
            key: String(i),
            elements,
            offset: 0,
            shape,
            stride,
          }),
        ];
      }),
    );
    const file = join(scratch, 'model.ckpt');
    writeFileSync(
      file,
      torchZip(body, Object.fromEntries(tensors.map(([, { bytes }], i) => [i, bytes]))),
    );
    const to = join(scratch, 'ckpt-converted');
    convert(file, to, { ...none, like: model('sd15') });
    expectSameModel(to, model('sd15'));
  });

  it('is refused as a model, with the command that converts it', () => {
    const file = join(scratch, 'sd15-single.safetensors');
    write(file, singleFile('sd15'));
    expect(() => readPipeline(file)).toThrow(
      `${file}: expected a pipeline folder in diffusers format, got a file; convert it with: npx spindle convert ${file} --to FOLDER`,
    );
  });

  it.each<[string, (tensors: Map<string, Tensor>) => void, Partial<typeof none>, RegExp]>([
    [
      'without a tokenizer',
      () => undefined,
      { like: undefined },
      /--tokenizer: expected a folder with tokenizer\.json/,
    ],
    [
      'that lacks a tensor',
      (tensors) => tensors.delete('model.diffusion_model.middle_block.1.norm.bias'),
      {},
      /expected the tensor model\.diffusion_model\.middle_block\.1\.norm\.bias \(mid_block\.attentions\.0\.norm\.bias of a Stable Diffusion 1\.x model\), got none/,
    ],
    [
      'with a tensor of another shape',
      (tensors) =>
        tensors.set('model.diffusion_model.out.2.bias', {
          dtype: 'F16',
          shape: [5],
          bytes: Buffer.alloc(10),
        }),
      {},
      /out\.2\.bias: expected the shape \[4\], got \[5\]/,
    ],
    [
      'of something else',
      (tensors) => tensors.forEach((_, name) => name.startsWith('cond') && tensors.delete(name)),
      {},
      /expected a checkpoint of Stable Diffusion/,
    ],
  ])('%s is refused and leaves nothing', (_name, damage, options, message) => {
    const tensors = singleFile('sd15');
    damage(tensors);
    const file = join(scratch, 'damaged.safetensors');
    write(file, tensors);
    const to = join(scratch, 'damaged');
    expect(() => convert(file, to, { ...none, like: model('sd15'), ...options })).toThrow(message);
    expect(existsSync(to)).toBe(false);
  });

  it('of Stable Diffusion 2.x needs to be told what it predicts, and names what it leaves out', () => {
    const file = join(scratch, 'sd21-extra.safetensors');
    const tensors = singleFile('sd21');
    tensors.set('some.adapter.weight', { dtype: 'F16', shape: [1], bytes: Buffer.alloc(2) });
    write(file, tensors);
    const tokenizer = join(model('sd21'), 'tokenizer');
    expect(() => convert(file, join(scratch, 'x'), { ...none, tokenizer })).toThrow(
      /--prediction: expected v_prediction \(768-pixel models\) or epsilon/,
    );
    expect(
      convert(file, join(scratch, 'sd21-extra'), { ...none, like: model('sd21') }).notes,
    ).toEqual(['1 tensors have no part in the pipeline and are left out: some.adapter.weight']);
  });
});

it.each<[Release, string, string]>([
  ['sd15', 'up_blocks.0.upsamplers.0.conv.weight', 'output_blocks.2.1.conv.weight'],
  ['sd15', 'up_blocks.2.upsamplers.0.conv.bias', 'output_blocks.8.2.conv.bias'],
  ['sd15', 'down_blocks.2.downsamplers.0.conv.weight', 'input_blocks.9.0.op.weight'],
  ['sd15', 'down_blocks.3.resnets.1.conv2.weight', 'input_blocks.11.0.out_layers.3.weight'],
  ['sd15', 'up_blocks.3.attentions.2.proj_out.weight', 'output_blocks.11.1.proj_out.weight'],
  ['sdxl', 'add_embedding.linear_2.weight', 'label_emb.0.2.weight'],
  [
    'sdxl',
    'down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight',
    'input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight',
  ],
  ['sdxl', 'up_blocks.1.upsamplers.0.conv.weight', 'output_blocks.5.2.conv.weight'],
  [
    'sdxl',
    'up_blocks.2.resnets.2.conv_shortcut.weight',
    'output_blocks.8.0.skip_connection.weight',
  ],
])('of %s, %s was %s', (release, name, original) => {
  const { unet } = releaseConfigs(release);
  expect(unetShapes(unet).has(name)).toBe(true);
  expect(ldmUnetSource(name, unet).names).toEqual([`model.diffusion_model.${original}`]);
});

it('keeps what the header of a safetensors file says, such as the scale of a LoRA', () => {
  const [from, to] = [join(scratch, 'lora.safetensors'), join(scratch, 'lora-again.safetensors')];
  const metadata = { format: 'pt', lora_adapter_metadata: '{"unet.r": 4, "unet.lora_alpha": 8}' };
  writeSafetensorsFile(
    from,
    [{ name: 'unet.a.lora_A.weight', dtype: 'F32', shape: [1], chunks: () => [Buffer.alloc(4)] }],
    metadata,
  );
  convert(from, to, none);
  expect(readSafetensorsHeader(to).metadata).toEqual(metadata);
});

describe('a folder of pickles', () => {
  it('becomes one of safetensors, under the names that are looked for', () => {
    const folder = join(scratch, 'pickled');
    writeRandomModel(folder, {
      release: 'sd15',
      reduced: true,
      dtype: 'F32',
      variant: undefined,
      shardBytes: Number.POSITIVE_INFINITY,
      seed: 5,
    });
    for (const [part, from, to] of [
      ['unet', 'diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.bin'],
      ['text_encoder', 'model.safetensors', 'pytorch_model.bin'],
    ] as const) {
      const tensors = [...tensorsOf(join(folder, part, from))];
      const types: Partial<Record<string, string>> = { F32: 'FloatStorage', I64: 'LongStorage' };
      const body = dictPickle(
        tensors.map(([name, { dtype, shape, bytes }], i) => {
          const stride = shape.map((_, d) =>
            shape.slice(d + 1).reduce((product, n) => product * n, 1),
          );
          return [
            name,
            tensorPickle({
              name,
              type: types[dtype] ?? '',
              key: String(i),
              elements: bytes.length / (tensorBytes({ dtype, shape: [] }) || 1),
              offset: 0,
              shape,
              stride,
            }),
          ];
        }),
      );
      renameSync(join(folder, part, from), join(folder, part, `${from}.kept`));
      writeFileSync(
        join(folder, part, to),
        torchZip(body, Object.fromEntries(tensors.map(([, { bytes }], i) => [i, bytes]))),
      );
    }
    mkdirSync(join(folder, 'safety_checker'));
    writeFileSync(join(folder, 'safety_checker/pytorch_model.bin'), 'not even a pickle');
    expect(() => readPipeline(folder)).toThrow(
      /diffusion_pytorch_model\.bin: pickle files are refused .* npx spindle convert/,
    );
    const to = join(scratch, 'unpickled');
    expect(convert(folder, to, none).notes).toEqual([
      `${join(folder, 'safety_checker')} is not used and left out`,
    ]);
    expect(readPipeline(to).textTowers).toHaveLength(1);
    for (const [part, name] of [
      ['unet', 'diffusion_pytorch_model.safetensors'],
      ['text_encoder', 'model.safetensors'],
    ] as const) {
      const got = tensorsOf(join(to, part, name));
      for (const [tensor, value] of tensorsOf(join(folder, part, `${name}.kept`)))
        expectSame(value, got.get(tensor), tensor);
    }
    expect(readFileSync(join(to, 'model_index.json'))).toEqual(
      readFileSync(join(folder, 'model_index.json')),
    );
    expect(() => convert(folder, to, none)).toThrow(/--to: expected an empty or absent folder/);
  });
});
