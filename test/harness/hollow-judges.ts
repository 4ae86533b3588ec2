/**
 * Judges of the real architectures without weights: names, types and shapes of every tensor, as
 * published, in files that are holes. Enough for whatever checks a judge and does not run it.
 */
import { writeSafetensorsFile, type HollowTensor } from '@spindle/kit';
import { textShapes, type JsonObject, type Shapes } from '@spindle/models';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { scenes } from './files.js';

interface Tower {
  width: number;
  layers: number;
  heads: number;
}

interface Clip {
  projection: number;
  text: Tower;
  vision: Tower & { patch: number };
}

const vitL: Clip = {
  projection: 768,
  text: { width: 768, layers: 12, heads: 12 },
  vision: { width: 1024, layers: 24, heads: 16, patch: 14 },
};
const vitH: Clip = {
  projection: 1024,
  text: { width: 1024, layers: 24, heads: 16 },
  vision: { width: 1280, layers: 32, heads: 16, patch: 14 },
};
const imageSize = 224;
const vocabulary = 49_408;
const tokens = 77;

/** The judges of examples/*.yaml, under the names that the configs have. */
export function writeHollowJudges(folder: string): void {
  const at = (name: string): string => join(folder, name);
  writeClip(at('PickScore_v1'), vitH);
  writeClip(at('clip-vit-large-patch14'), vitL);
  writeClip(at('CLIP-ViT-H-14-laion2B-s32B-b79K'), vitH);
  writeHollow(at('HPS_v2_compressed.safetensors'), openClipShapes(vitH));
  writeHollow(
    at('sac+logos+ava1-l14-linearMSE.safetensors'),
    layers('layers', [vitL.projection, 1024, 128, 64, 16, 1]),
  );
  mkdirSync(at('ImageReward'), { recursive: true });
  writeHollow(at('ImageReward/ImageReward.safetensors'), imageRewardShapes());
  writeFileSync(at('ImageReward/vocab.txt'), '[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n');
}

function writeHollow(file: string, shapes: Shapes): void {
  writeSafetensorsFile(
    file,
    [...shapes].map(([name, shape]): HollowTensor => ({ name, dtype: 'F32', shape, chunks: null })),
  );
}

/** A CLIPModel's folder of transformers. */
function writeClip(folder: string, clip: Clip): void {
  mkdirSync(folder, { recursive: true });
  const { text, vision, projection } = clip;
  const tower = ({ width, layers, heads }: Tower): JsonObject => ({
    hidden_size: width,
    intermediate_size: 4 * width,
    num_hidden_layers: layers,
    num_attention_heads: heads,
  });
  const textConfig = {
    ...tower(text),
    vocab_size: vocabulary,
    max_position_embeddings: tokens,
    hidden_act: 'gelu',
  };
  const config = {
    architectures: ['CLIPModel'],
    model_type: 'clip',
    projection_dim: projection,
    text_config: textConfig,
    vision_config: {
      ...tower(vision),
      image_size: imageSize,
      patch_size: vision.patch,
      hidden_act: 'gelu',
    },
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  const preprocess = {
    crop_size: { height: imageSize, width: imageSize },
    do_center_crop: true,
    do_normalize: true,
    do_resize: true,
    image_mean: [0.48145466, 0.4578275, 0.40821073],
    image_processor_type: 'CLIPImageProcessor',
    image_std: [0.26862954, 0.26130258, 0.27577711],
    resample: 3,
    size: { shortest_edge: imageSize },
  };
  writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(preprocess));
  // Any tokenizer does for a judge that judges nothing.
  cpSync(join(scenes, 'tiny-pickscore/tokenizer'), folder, { recursive: true });
  const shapes: Shapes = new Map([
    ...textShapes({ ...textConfig, architectures: ['CLIPTextModel'] }),
    ['text_projection.weight', [projection, text.width]],
    ['visual_projection.weight', [projection, vision.width]],
    ['logit_scale', []],
    ['vision_model.embeddings.class_embedding', [vision.width]],
    [
      'vision_model.embeddings.patch_embedding.weight',
      [vision.width, 3, vision.patch, vision.patch],
    ],
    ['vision_model.embeddings.position_embedding.weight', [positions(clip), vision.width]],
    ...norm('vision_model.pre_layrnorm', vision.width),
    ...norm('vision_model.post_layernorm', vision.width),
  ]);
  for (let n = 0; n < vision.layers; n++) {
    const name = `vision_model.encoder.layers.${n}`;
    add(shapes, norm(`${name}.layer_norm1`, vision.width));
    add(shapes, norm(`${name}.layer_norm2`, vision.width));
    for (const part of ['q_proj', 'k_proj', 'v_proj', 'out_proj'])
      add(shapes, linear(`${name}.self_attn.${part}`, vision.width, vision.width));
    add(shapes, linear(`${name}.mlp.fc1`, 4 * vision.width, vision.width));
    add(shapes, linear(`${name}.mlp.fc2`, vision.width, 4 * vision.width));
  }
  writeHollow(join(folder, 'model.safetensors'), shapes);
}

function openClipShapes(clip: Clip): Shapes {
  const { text, vision, projection } = clip;
  const shapes: Shapes = new Map([
    ['token_embedding.weight', [vocabulary, text.width]],
    ['positional_embedding', [tokens, text.width]],
    ['text_projection', [text.width, projection]],
    ['logit_scale', []],
    ...norm('ln_final', text.width),
    ['visual.class_embedding', [vision.width]],
    ['visual.positional_embedding', [positions(clip), vision.width]],
    ['visual.proj', [vision.width, projection]],
    ['visual.conv1.weight', [vision.width, 3, vision.patch, vision.patch]],
    ...norm('visual.ln_pre', vision.width),
    ...norm('visual.ln_post', vision.width),
  ]);
  for (const [prefix, { width, layers }] of [
    ['', text],
    ['visual.', vision],
  ] as const)
    for (let n = 0; n < layers; n++) {
      const name = `${prefix}transformer.resblocks.${n}`;
      add(shapes, norm(`${name}.ln_1`, width));
      add(shapes, norm(`${name}.ln_2`, width));
      shapes.set(`${name}.attn.in_proj_weight`, [3 * width, width]);
      shapes.set(`${name}.attn.in_proj_bias`, [3 * width]);
      add(shapes, linear(`${name}.attn.out_proj`, width, width));
      add(shapes, linear(`${name}.mlp.c_fc`, 4 * width, width));
      add(shapes, linear(`${name}.mlp.c_proj`, width, 4 * width));
    }
  return shapes;
}

/** BLIP's ViT-L/16 at 224 pixels, BERT base with cross attention, and the head. */
function imageRewardShapes(): Shapes {
  const [vision, text, patch] = [1024, 768, 16];
  const image = 'blip.visual_encoder';
  const bert = 'blip.text_encoder';
  const shapes: Shapes = new Map([
    [`${image}.cls_token`, [1, 1, vision]],
    [`${image}.pos_embed`, [1, 1 + (imageSize / patch) ** 2, vision]],
    [`${image}.patch_embed.proj.weight`, [vision, 3, patch, patch]],
    [`${image}.patch_embed.proj.bias`, [vision]],
    ...norm(`${image}.norm`, vision),
    [`${bert}.embeddings.word_embeddings.weight`, [30_524, text]],
    [`${bert}.embeddings.position_embeddings.weight`, [512, text]],
    ...norm(`${bert}.embeddings.LayerNorm`, text),
    ...layers('mlp.layers', [text, 1024, 128, 64, 16, 1]),
  ]);
  for (let n = 0; n < 24; n++) {
    const name = `${image}.blocks.${n}`;
    add(shapes, norm(`${name}.norm1`, vision));
    add(shapes, norm(`${name}.norm2`, vision));
    add(shapes, linear(`${name}.attn.qkv`, 3 * vision, vision));
    add(shapes, linear(`${name}.attn.proj`, vision, vision));
    add(shapes, linear(`${name}.mlp.fc1`, 4 * vision, vision));
    add(shapes, linear(`${name}.mlp.fc2`, vision, 4 * vision));
  }
  for (let n = 0; n < 12; n++) {
    const name = `${bert}.encoder.layer.${n}`;
    for (const [attention, context] of [
      ['attention', text],
      ['crossattention', vision],
    ] as const) {
      add(shapes, linear(`${name}.${attention}.self.query`, text, text));
      add(shapes, linear(`${name}.${attention}.self.key`, text, context));
      add(shapes, linear(`${name}.${attention}.self.value`, text, context));
      add(shapes, linear(`${name}.${attention}.output.dense`, text, text));
      add(shapes, norm(`${name}.${attention}.output.LayerNorm`, text));
    }
    add(shapes, linear(`${name}.intermediate.dense`, 4 * text, text));
    add(shapes, linear(`${name}.output.dense`, text, 4 * text));
    add(shapes, norm(`${name}.output.LayerNorm`, text));
  }
  return shapes;
}

type Entry = [string, number[]];

function linear(name: string, to: number, from: number): Entry[] {
  return [
    [`${name}.weight`, [to, from]],
    [`${name}.bias`, [to]],
  ];
}

function norm(name: string, width: number): Entry[] {
  return [
    [`${name}.weight`, [width]],
    [`${name}.bias`, [width]],
  ];
}

/** Of LAION's head and ImageReward's: dropouts stand between, and take numbers too. */
function layers(name: string, widths: readonly number[]): Map<string, number[]> {
  const indices = [0, 2, 4, 6, 7];
  return new Map(
    indices.flatMap((index, n) => linear(`${name}.${index}`, widths[n + 1] ?? 0, widths[n] ?? 0)),
  );
}

function add(shapes: Shapes, entries: Iterable<Entry>): void {
  for (const [name, shape] of entries) shapes.set(name, shape);
}

function positions({ vision }: Clip): number {
  return 1 + (imageSize / vision.patch) ** 2;
}
