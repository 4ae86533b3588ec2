import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readSafetensorsHeader } from '@spindle/kit';
import { fromFloat16 } from '../files/float16.js';
import { releaseConfigs, releases, type Release } from '../released/configs.js';
import { textShapes, unetShapes, vaeShapes } from '../released/tensors.js';
import { writeRandomModel, type WeightDtype } from '../released/write.js';
import {
  originalCheckpoint,
  tensorsOf,
  writeTensors,
  type Tensor,
} from '../testing/original-checkpoint.js';
import { textSource } from './checkpoint.js';
import { convert } from './convert.js';
import { writeKohyaLora, writeSingleFile } from './for-other-tools.js';
import { ldmUnetSource, ldmVaeSource } from './ldm-names.js';

const scratch = mkdtempSync(join(tmpdir(), 'other-tools-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const asItIs = { unet: undefined, dtype: undefined };
const modern = (name: string): string =>
  name
    .replace('.query.', '.to_q.')
    .replace('.key.', '.to_k.')
    .replace('.value.', '.to_v.')
    .replace('.proj_attn.', '.to_out.0.');

function model(release: Release, dtype: WeightDtype = 'F16'): string {
  const folder = join(scratch, `${release}-${dtype}`);
  if (!existsSync(folder))
    writeRandomModel(folder, {
      ...{ release, reduced: true, dtype, variant: undefined, seed: 5 },
      shardBytes: Number.POSITIVE_INFINITY,
    });
  return folder;
}

/** Comparing a model's bytes one by one takes seconds. */
function digests(tensors: ReadonlyMap<string, Tensor>): Record<string, string> {
  const entries = [...tensors].map(([name, { dtype, shape, bytes }]) => {
    const digest = createHash('sha256').update(bytes).digest('hex');
    return [name, `${dtype} [${shape.join()}] ${digest}`] as const;
  });
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function partsOf(folder: string, release: Release): Map<string, Tensor> {
  const parts = ['unet', 'vae', 'text_encoder', ...(release === 'sdxl' ? ['text_encoder_2'] : [])];
  return new Map(
    parts.flatMap((part) => {
      const stem = part.startsWith('text') ? 'model' : 'diffusion_pytorch_model';
      return [...tensorsOf(join(folder, part, `${stem}.safetensors`))].map(
        ([name, tensor]) => [`${part}: ${modern(name)}`, tensor] as const,
      );
    }),
  );
}

describe('a folder as a checkpoint in one file', () => {
  it.each(releases)('of %s has the names, shapes and bytes of the original code', (release) => {
    const to = join(scratch, `${release}-names.safetensors`);
    const done = writeSingleFile(model(release), to, asItIs);
    expect(done.notes).toEqual([expect.stringMatching(/not of a released architecture/)]);
    const expected = originalCheckpoint(model(release), release);
    // What training and older libraries leave there has no part in drawing.
    for (const name of expected.keys())
      if (/^(betas|alphas_cumprod|model_ema\.)|position_ids$/.test(name)) expected.delete(name);
    const got = tensorsOf(to);
    expect(got.delete('v_pred')).toBe(release === 'sd21');
    expect(digests(got)).toEqual(digests(expected));
  });

  it.each(releases)('of %s becomes the folder again, byte for byte', (release) => {
    const file = join(scratch, `${release}-again.safetensors`);
    const back = join(scratch, `${release}-again`);
    writeSingleFile(model(release), file, asItIs);
    convert(file, back, { tokenizer: undefined, like: model(release), prediction: undefined });
    const expected = partsOf(model(release), release);
    for (const name of expected.keys()) if (/position_ids$/.test(name)) expected.delete(name);
    expect(digests(partsOf(back, release))).toEqual(digests(expected));
  });

  // Of v1-5-pruned-emaonly, v2-1_768-ema-pruned and sd_xl_base_1.0: less position_ids, logit_scale
  // and, for 2.1, what its text encoder is cut off before.
  it.each([
    ['sd15', 686, 248, 196],
    ['sd21', 686, 248, 23 * 12 + 4],
    ['sdxl', 1680, 248, 196 + 32 * 12 + 5],
  ] as const)('of %s has as many tensors as the released one', (release, unet, vae, text) => {
    const configs = releaseConfigs(release);
    const distinct = (names: (string | undefined)[]): number => new Set(names).size;
    const named = [...unetShapes(configs.unet).keys()];
    expect(distinct(named.map((name) => ldmUnetSource(name, configs.unet).names[0]))).toBe(unet);
    const coded = [...vaeShapes(configs.vae, false).keys()];
    expect(distinct(coded.map((name) => ldmVaeSource(name, configs.vae).names[0]))).toBe(vae);
    const read = configs.textEncoders.flatMap((config, n) =>
      [...textShapes(config).keys()].map((name) => textSource(release, n, name).names[0]),
    );
    expect(distinct(read)).toBe(text);
  });

  it('takes another U-Net, and numbers of another type', () => {
    const to = join(scratch, 'other.safetensors');
    const unet = join(model('sd15'), 'unet');
    writeSingleFile(model('sd15', 'F32'), to, { unet, dtype: 'float16' });
    const name = 'input_blocks.0.0.weight';
    const got = tensorsOf(to);
    const own = tensorsOf(join(unet, 'diffusion_pytorch_model.safetensors'));
    expect(got.get(`model.diffusion_model.${name}`)?.bytes).toEqual(
      own.get('conv_in.weight')?.bytes,
    );
    expect(new Set([...got.values()].map(({ dtype }) => dtype))).toEqual(new Set(['F16']));
    const wide = tensorsOf(join(model('sd15', 'F32'), 'vae/diffusion_pytorch_model.safetensors'));
    const exact = wide.get('quant_conv.weight')?.bytes;
    const rounded = got.get('first_stage_model.quant_conv.weight')?.bytes;
    expect(rounded?.length).toBe((exact?.length ?? 0) / 2);
    const value = exact?.readFloatLE(0) ?? 0;
    expect(Math.abs(fromFloat16(rounded?.readUInt16LE(0) ?? 0) - value)).toBeLessThanOrEqual(
      Math.abs(value) * 2 ** -11,
    );
  });

  it('refuses a number that the type cannot hold, a tensor without a place, and a file there', () => {
    const folder = model('sd15', 'BF16');
    const file = join(folder, 'vae/diffusion_pytorch_model.safetensors');
    const before = tensorsOf(file);
    const bias = before.get('quant_conv.bias') as Tensor;
    const large = Buffer.from(bias.bytes);
    // 2^17 in bfloat16
    large.writeUInt16LE(0x4800, 0);
    rmSync(file);
    writeTensors(file, new Map([...before, ['quant_conv.bias', { ...bias, bytes: large }]]));
    const to = join(scratch, 'none.safetensors');
    expect(() => writeSingleFile(folder, to, { unet: undefined, dtype: 'float16' })).toThrow(
      /quant_conv\.bias: expected values that float16 holds \(up to 65504\), got 131072/,
    );
    expect(existsSync(to)).toBe(false);
    rmSync(file);
    writeTensors(file, new Map([...before, ['adapter.weight', bias]]));
    expect(() => writeSingleFile(folder, to, asItIs)).toThrow(
      /adapter\.weight: expected tensors that have a place in the file/,
    );
    writeTensors(to, new Map());
    expect(() => writeSingleFile(folder, to, asItIs)).toThrow(/--to: expected a file that ends/);
  });
});

describe("a LoRA file with kohya's names", () => {
  const tensor = (...shape: number[]): Tensor => ({
    dtype: 'F32',
    shape,
    bytes: Buffer.alloc(4 * shape.reduce((a, b) => a * b, 1), 1),
  });
  const block = 'down_blocks.1.attentions.0';
  const own = new Map([
    [`unet.${block}.proj_in.lora_A.weight`, tensor(2, 16, 1, 1)],
    [`unet.${block}.proj_in.lora_B.weight`, tensor(16, 2, 1, 1)],
    [`unet.${block}.transformer_blocks.0.attn1.to_out.0.lora_A.weight`, tensor(2, 16)],
    [`unet.${block}.transformer_blocks.0.attn1.to_out.0.lora_B.weight`, tensor(16, 2)],
  ]);

  it.each([
    ['sd15', 'lora_unet_down_blocks_1_attentions_0_', 'sd_v1', 'False'],
    ['sd21', 'lora_unet_down_blocks_1_attentions_0_', 'sd_v2', 'True'],
    // sd-scripts trains the original code's U-Net there.
    ['sdxl', 'lora_unet_input_blocks_4_1_', 'sdxl_base_v1-0', 'False'],
  ] as const)('of %s begins with %s', (release, prefix, version, v2) => {
    const from = join(scratch, `${release}-lora.safetensors`);
    writeTensors(from, own);
    const unet = join(scratch, `${release}-unet`);
    writeRandomModel(unet, {
      ...{ release, reduced: true, dtype: 'F16', variant: undefined, seed: 1 },
      shardBytes: Number.POSITIVE_INFINITY,
    });
    const to = join(scratch, `${release}-kohya.safetensors`);
    writeKohyaLora(from, to, { model: unet, dtype: 'float16' });
    const got = tensorsOf(to);
    const layers = ['proj_in', 'transformer_blocks_0_attn1_to_out_0'];
    expect([...got.keys()].sort()).toEqual(
      layers
        .flatMap((layer) => [
          `${prefix}${layer}.alpha`,
          `${prefix}${layer}.lora_down.weight`,
          `${prefix}${layer}.lora_up.weight`,
        ])
        .sort(),
    );
    expect(got.get(`${prefix}proj_in.lora_down.weight`)?.shape).toEqual([2, 16, 1, 1]);
    const alpha = got.get(`${prefix}proj_in.alpha`);
    // Its scale lies in the weights: alpha is the rank.
    expect([alpha?.dtype, alpha?.shape, fromFloat16(alpha?.bytes.readUInt16LE(0) ?? 0)]).toEqual([
      'F16',
      [],
      2,
    ]);
    expect(readSafetensorsHeader(to).metadata).toEqual({
      format: 'pt',
      ss_network_module: 'networks.lora',
      ss_network_dim: '2',
      ss_network_alpha: '2',
      ss_base_model_version: version,
      ss_v2: v2,
    });
  });

  it('is refused where the file is not ours', () => {
    const from = join(scratch, 'foreign.safetensors');
    writeTensors(from, new Map([['lora_unet_x.lora_down.weight', tensor(2, 4)]]));
    expect(() =>
      writeKohyaLora(from, join(scratch, 'x.safetensors'), {
        model: model('sd15'),
        dtype: undefined,
      }),
    ).toThrow(
      /lora_unet_x\.lora_down\.weight: expected a tensor of a LoRA file that Spindle wrote/,
    );
  });
});
