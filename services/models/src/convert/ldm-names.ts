/**
 * Where a diffusers tensor lies in a single-file checkpoint. Those keep the names of the original
 * code (latent-diffusion, generative-models; text encoders of transformers or open_clip), which
 * this writes down from the side of diffusers' names.
 */
import type { JsonObject } from '../files/json.js';

/** A tensor of the checkpoint, or rows of one, or one turned. */
export interface LdmSource {
  /** Names it may have, in order of preference. */
  names: string[];
  /** Third `part` of three along the first dimension: packed query, key and value. */
  part?: 0 | 1 | 2;
  /** (a, b) to (b, a). */
  transposed?: boolean;
}

const named = (...names: string[]): LdmSource => ({ names });

const resnetParts: Readonly<Record<string, string>> = {
  norm1: 'in_layers.0',
  conv1: 'in_layers.2',
  time_emb_proj: 'emb_layers.1',
  norm2: 'out_layers.0',
  conv2: 'out_layers.3',
  conv_shortcut: 'skip_connection',
};

const outer: readonly (readonly [string, string])[] = [
  ['conv_in.', 'input_blocks.0.0.'],
  ['time_embedding.linear_1.', 'time_embed.0.'],
  ['time_embedding.linear_2.', 'time_embed.2.'],
  ['add_embedding.linear_1.', 'label_emb.0.0.'],
  ['add_embedding.linear_2.', 'label_emb.0.2.'],
  ['conv_norm_out.', 'out.0.'],
  ['conv_out.', 'out.2.'],
];

export function ldmUnetSource(name: string, config: JsonObject): LdmSource {
  return named(`model.diffusion_model.${unetName(name, config)}`);
}

function unetName(name: string, config: JsonObject): string {
  const layers = config['layers_per_block'] as number;
  for (const [from, to] of outer) if (name.startsWith(from)) return to + name.slice(from.length);
  const middle = /^mid_block\.(resnets|attentions)\.(\d+)\.(.*)$/.exec(name);
  if (middle !== null) {
    const [, kind, index, rest = ''] = middle;
    return kind === 'attentions'
      ? `middle_block.1.${rest}`
      : `middle_block.${2 * Number(index)}.${resnetName(rest)}`;
  }
  const match =
    /^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)$/.exec(
      name,
    );
  if (match === null) throw new Error(`${name}: expected a tensor of a U-Net`);
  const [, side, block, kind, index, rest = ''] = match;
  const down = side === 'down';
  const [b, i] = [Number(block), Number(index)];
  // One entry per resnet and, on the way down, per downsampler; conv_in is the first.
  const entry = down ? 1 + b * (layers + 1) + i : b * (layers + 1) + i;
  switch (kind) {
    case 'resnets':
      return `${down ? 'input' : 'output'}_blocks.${entry}.0.${resnetName(rest)}`;
    case 'attentions':
      return `${down ? 'input' : 'output'}_blocks.${entry}.1.${rest}`;
    case 'downsamplers':
      return `input_blocks.${(b + 1) * (layers + 1)}.0.op.${rest.replace(/^conv\./, '')}`;
    default: {
      // The upsampler ends the block's last entry, behind its resnet and, where there is one, its
      // transformer.
      const types = config['up_block_types'] as string[];
      const attends = types[b]?.startsWith('CrossAttn') === true;
      return `output_blocks.${b * (layers + 1) + layers}.${attends ? 2 : 1}.${rest}`;
    }
  }
}

function resnetName(rest: string): string {
  const at = rest.indexOf('.');
  return `${resnetParts[rest.slice(0, at)] ?? rest.slice(0, at)}${rest.slice(at)}`;
}

const attentionParts: Readonly<Record<string, string>> = {
  group_norm: 'norm',
  to_q: 'q',
  to_k: 'k',
  to_v: 'v',
  'to_out.0': 'proj_out',
};

export function ldmVaeSource(name: string, config: JsonObject): LdmSource {
  const levels = (config['block_out_channels'] as number[]).length;
  const converted = name
    .replace(/conv_shortcut/, 'nin_shortcut')
    .replace(/^(encoder|decoder)\.conv_norm_out\./, '$1.norm_out.')
    .replace(/\.mid_block\.resnets\.(\d)\./, (_all, i: string) => `.mid.block_${Number(i) + 1}.`)
    .replace(
      /\.mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)\./,
      (_all, part: string) => `.mid.attn_1.${attentionParts[part]}.`,
    )
    .replace(/\.down_blocks\.(\d+)\.resnets\.(\d+)\./, '.down.$1.block.$2.')
    .replace(/\.down_blocks\.(\d+)\.downsamplers\.0\./, '.down.$1.downsample.')
    .replace(
      /\.up_blocks\.(\d+)\.resnets\.(\d+)\./,
      (_all, block: string, i: string) => `.up.${levels - 1 - Number(block)}.block.${i}.`,
    )
    .replace(
      /\.up_blocks\.(\d+)\.upsamplers\.0\./,
      (_all, block: string) => `.up.${levels - 1 - Number(block)}.upsample.`,
    );
  return named(`first_stage_model.${converted}`);
}

/** A text encoder of transformers under `prefix`; old files lack "text_model.". */
export function ldmClipSource(name: string, prefix: string): LdmSource {
  return named(prefix + name, prefix + name.replace(/^text_model\./, ''));
}

const openClipParts: Readonly<Record<string, string>> = {
  layer_norm1: 'ln_1',
  layer_norm2: 'ln_2',
  'self_attn.out_proj': 'attn.out_proj',
  'mlp.fc1': 'mlp.c_fc',
  'mlp.fc2': 'mlp.c_proj',
};

/**
 * A text encoder of open_clip under `prefix`: query, key and value are packed, the projection is
 * turned.
 */
export function openClipSource(name: string, prefix: string): LdmSource {
  const simple: Readonly<Record<string, string>> = {
    'text_model.embeddings.token_embedding.weight': 'token_embedding.weight',
    'text_model.embeddings.position_embedding.weight': 'positional_embedding',
    'text_model.final_layer_norm.weight': 'ln_final.weight',
    'text_model.final_layer_norm.bias': 'ln_final.bias',
  };
  if (name === 'text_projection.weight')
    return { ...named(`${prefix}text_projection`), transposed: true };
  const known = simple[name];
  if (known !== undefined) return named(prefix + known);
  const match = /^text_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)$/.exec(name);
  if (match === null) throw new Error(`${name}: expected a tensor of a text encoder`);
  const [, layer, part = '', kind] = match;
  const block = `${prefix}transformer.resblocks.${layer}.`;
  const packed = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'].indexOf(part);
  if (packed >= 0) return { ...named(`${block}attn.in_proj_${kind}`), part: packed as 0 | 1 | 2 };
  return named(`${block}${openClipParts[part]}.${kind}`);
}
