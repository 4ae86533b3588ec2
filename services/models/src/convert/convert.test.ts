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
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readPipeline } from '../pipeline/pipeline.js';
import { releaseConfigs, releases, type Release } from '../released/configs.js';
import { unetShapes } from '../released/tensors.js';
import { writeRandomModel } from '../released/write.js';
import { readSafetensorsHeader, tensorBytes, writeSafetensorsFile } from '@spindle/kit';
import { dictPickle, tensorPickle, torchZip } from '../testing/torch-archives.js';
import { readJsonObject, type JsonObject } from '../files/json.js';
import {
  originalCheckpoint,
  tensorsOf,
  writeTensors,
  type Tensor,
} from '../testing/original-checkpoint.js';
import { convert } from './convert.js';
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
    writeTensors(file, originalCheckpoint(model(release), release));
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
    writeTensors(
      file,
      new Map([
        ...originalCheckpoint(model(release), release),
        ...marks.map((name) => [name, mark] as const),
      ]),
    );
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
    const tensors = [...originalCheckpoint(model('sd15'), 'sd15')];
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
    writeTensors(file, originalCheckpoint(model('sd15'), 'sd15'));
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
    const tensors = originalCheckpoint(model('sd15'), 'sd15');
    damage(tensors);
    const file = join(scratch, 'damaged.safetensors');
    writeTensors(file, tensors);
    const to = join(scratch, 'damaged');
    expect(() => convert(file, to, { ...none, like: model('sd15'), ...options })).toThrow(message);
    expect(existsSync(to)).toBe(false);
  });

  it('of Stable Diffusion 2.x needs to be told what it predicts, and names what it leaves out', () => {
    const file = join(scratch, 'sd21-extra.safetensors');
    const tensors = originalCheckpoint(model('sd21'), 'sd21');
    tensors.set('some.adapter.weight', { dtype: 'F16', shape: [1], bytes: Buffer.alloc(2) });
    writeTensors(file, tensors);
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
