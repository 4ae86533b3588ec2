/**
 * Names and shapes of every tensor in diffusers' files, written down from the architectures
 * (UNet2DConditionModel, AutoencoderKL, CLIPTextModel) and not from the engine, so that each checks
 * the other.
 */
import type { JsonObject, JsonValue } from '../files/json.js';

/** Shape in the file (PyTorch's layout) by name. */
export type Shapes = Map<string, number[]>;

class Names {
  readonly shapes: Shapes = new Map();

  linear(name: string, to: number, from: number, bias = true): void {
    this.shapes.set(`${name}.weight`, [to, from]);
    if (bias) this.shapes.set(`${name}.bias`, [to]);
  }

  conv(name: string, to: number, from: number, kernel: number): void {
    this.shapes.set(`${name}.weight`, [to, from, kernel, kernel]);
    this.shapes.set(`${name}.bias`, [to]);
  }

  norm(name: string, width: number): void {
    this.shapes.set(`${name}.weight`, [width]);
    this.shapes.set(`${name}.bias`, [width]);
  }

  resnet(name: string, to: number, from: number, time: number): void {
    this.norm(`${name}.norm1`, from);
    this.conv(`${name}.conv1`, to, from, 3);
    if (time > 0) this.linear(`${name}.time_emb_proj`, to, time);
    this.norm(`${name}.norm2`, to);
    this.conv(`${name}.conv2`, to, to, 3);
    if (to !== from) this.conv(`${name}.conv_shortcut`, to, from, 1);
  }

  transformer(
    name: string,
    width: number,
    { layers, cross, linear }: { layers: number; cross: number; linear: boolean },
  ): void {
    const projection = (part: string): void => {
      if (linear) this.linear(`${name}.${part}`, width, width);
      else this.conv(`${name}.${part}`, width, width, 1);
    };
    this.norm(`${name}.norm`, width);
    projection('proj_in');
    for (let layer = 0; layer < layers; layer++) {
      const block = `${name}.transformer_blocks.${layer}`;
      for (const [attention, context] of [
        ['attn1', width],
        ['attn2', cross],
      ] as const) {
        this.linear(`${block}.${attention}.to_q`, width, width, false);
        this.linear(`${block}.${attention}.to_k`, width, context, false);
        this.linear(`${block}.${attention}.to_v`, width, context, false);
        this.linear(`${block}.${attention}.to_out.0`, width, width);
      }
      this.linear(`${block}.ff.net.0.proj`, 8 * width, width);
      this.linear(`${block}.ff.net.2`, width, 4 * width);
      for (const norm of ['norm1', 'norm2', 'norm3']) this.norm(`${block}.${norm}`, width);
    }
    projection('proj_out');
  }
}

const number = (config: JsonObject, key: string): number => {
  const value = config[key];
  if (typeof value !== 'number')
    throw new TypeError(`${key}: expected a number, got ${JSON.stringify(value)}`);
  return value;
};
const numbers = (value: JsonValue | undefined): number[] =>
  Array.isArray(value) ? value.filter((n) => typeof n === 'number') : [];
const strings = (value: JsonValue | undefined): string[] =>
  Array.isArray(value) ? value.filter((n) => typeof n === 'string') : [];

export function unetShapes(config: JsonObject): Shapes {
  const names = new Names();
  const channels = numbers(config['block_out_channels']);
  const [first = 0] = channels;
  const last = channels.at(-1) ?? 0;
  const time = 4 * first;
  const layers = number(config, 'layers_per_block');
  const depths = numbers(config['transformer_layers_per_block']);
  const transformer = (name: string, level: number): void =>
    names.transformer(name, channels[level] ?? 0, {
      layers: depths[level] ?? 1,
      cross: number(config, 'cross_attention_dim'),
      linear: config['use_linear_projection'] === true,
    });
  names.conv('conv_in', first, number(config, 'in_channels'), 3);
  names.linear('time_embedding.linear_1', time, first);
  names.linear('time_embedding.linear_2', time, time);
  if (config['addition_embed_type'] === 'text_time') {
    names.linear(
      'add_embedding.linear_1',
      time,
      number(config, 'projection_class_embeddings_input_dim'),
    );
    names.linear('add_embedding.linear_2', time, time);
  }
  // Channels of every skip connection, in the order in which they are made.
  const skips = [first];
  let width = first;
  for (const [level, type] of strings(config['down_block_types']).entries()) {
    const to = channels[level] ?? 0;
    for (let layer = 0; layer < layers; layer++) {
      names.resnet(`down_blocks.${level}.resnets.${layer}`, to, width, time);
      if (type.startsWith('CrossAttn'))
        transformer(`down_blocks.${level}.attentions.${layer}`, level);
      width = to;
      skips.push(width);
    }
    if (level + 1 < channels.length) {
      names.conv(`down_blocks.${level}.downsamplers.0.conv`, width, width, 3);
      skips.push(width);
    }
  }
  names.resnet('mid_block.resnets.0', last, last, time);
  transformer('mid_block.attentions.0', channels.length - 1);
  names.resnet('mid_block.resnets.1', last, last, time);
  for (const [block, type] of strings(config['up_block_types']).entries()) {
    const level = channels.length - 1 - block;
    const to = channels[level] ?? 0;
    for (let layer = 0; layer <= layers; layer++) {
      names.resnet(`up_blocks.${block}.resnets.${layer}`, to, width + (skips.pop() ?? 0), time);
      if (type.startsWith('CrossAttn'))
        transformer(`up_blocks.${block}.attentions.${layer}`, level);
      width = to;
    }
    if (block + 1 < channels.length)
      names.conv(`up_blocks.${block}.upsamplers.0.conv`, width, width, 3);
  }
  names.norm('conv_norm_out', first);
  names.conv('conv_out', number(config, 'out_channels'), first, 3);
  return names.shapes;
}

/**
 * `legacy`: the attention's names of files from before diffusers 0.12, which SD 1.x and 2.x still
 * have.
 */
export function vaeShapes(config: JsonObject, legacy: boolean): Shapes {
  const names = new Names();
  const channels = numbers(config['block_out_channels']);
  const [first = 0] = channels;
  const last = channels.at(-1) ?? 0;
  const latent = number(config, 'latent_channels');
  const layers = number(config, 'layers_per_block');
  const middle = (name: string): void => {
    names.resnet(`${name}.resnets.0`, last, last, 0);
    names.norm(`${name}.attentions.0.group_norm`, last);
    for (const part of legacy
      ? ['query', 'key', 'value', 'proj_attn']
      : ['to_q', 'to_k', 'to_v', 'to_out.0'])
      names.linear(`${name}.attentions.0.${part}`, last, last);
    names.resnet(`${name}.resnets.1`, last, last, 0);
  };
  names.conv('encoder.conv_in', first, number(config, 'in_channels'), 3);
  let width = first;
  for (const [level, to] of channels.entries()) {
    for (let layer = 0; layer < layers; layer++) {
      names.resnet(`encoder.down_blocks.${level}.resnets.${layer}`, to, width, 0);
      width = to;
    }
    if (level + 1 < channels.length)
      names.conv(`encoder.down_blocks.${level}.downsamplers.0.conv`, width, width, 3);
  }
  middle('encoder.mid_block');
  names.norm('encoder.conv_norm_out', last);
  names.conv('encoder.conv_out', 2 * latent, last, 3);
  names.conv('quant_conv', 2 * latent, 2 * latent, 1);
  names.conv('post_quant_conv', latent, latent, 1);
  names.conv('decoder.conv_in', last, latent, 3);
  middle('decoder.mid_block');
  width = last;
  for (const [block, to] of [...channels].reverse().entries()) {
    for (let layer = 0; layer <= layers; layer++) {
      names.resnet(`decoder.up_blocks.${block}.resnets.${layer}`, to, width, 0);
      width = to;
    }
    if (block + 1 < channels.length)
      names.conv(`decoder.up_blocks.${block}.upsamplers.0.conv`, width, width, 3);
  }
  names.norm('decoder.conv_norm_out', first);
  names.conv('decoder.conv_out', number(config, 'out_channels'), first, 3);
  return names.shapes;
}

/** Without the buffer position_ids, which older files carry. */
export function textShapes(config: JsonObject): Shapes {
  const names = new Names();
  const width = number(config, 'hidden_size');
  const inner = number(config, 'intermediate_size');
  names.shapes.set('text_model.embeddings.token_embedding.weight', [
    number(config, 'vocab_size'),
    width,
  ]);
  names.shapes.set('text_model.embeddings.position_embedding.weight', [
    number(config, 'max_position_embeddings'),
    width,
  ]);
  for (let layer = 0; layer < number(config, 'num_hidden_layers'); layer++) {
    const name = `text_model.encoder.layers.${layer}`;
    for (const part of ['q_proj', 'k_proj', 'v_proj', 'out_proj'])
      names.linear(`${name}.self_attn.${part}`, width, width);
    names.norm(`${name}.layer_norm1`, width);
    names.linear(`${name}.mlp.fc1`, inner, width);
    names.linear(`${name}.mlp.fc2`, width, inner);
    names.norm(`${name}.layer_norm2`, width);
  }
  names.norm('text_model.final_layer_norm', width);
  const { architectures } = config;
  if (Array.isArray(architectures) && architectures[0] === 'CLIPTextModelWithProjection')
    names.linear('text_projection', number(config, 'projection_dim'), width, false);
  return names.shapes;
}

export function elements(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

export function parameterCount(shapes: Shapes): number {
  let sum = 0;
  for (const shape of shapes.values()) sum += elements(shape);
  return sum;
}
