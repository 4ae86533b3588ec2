/** A model folder in one file, under the names of the original code. */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { writeSafetensorsFile, type TensorSource } from '@spindle/kit';
import { bytesOf, RandomFile, safetensorsSources } from '../convert/files.js';
import { releaseConfigs, type Release } from '../released/configs.js';

export interface Tensor {
  dtype: TensorSource['dtype'];
  shape: readonly number[];
  bytes: Buffer;
}

export function tensorsOf(path: string): Map<string, Tensor> {
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

export function writeTensors(path: string, tensors: Map<string, Tensor>): void {
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
export function originalCheckpoint(folder: string, release: Release): Map<string, Tensor> {
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
