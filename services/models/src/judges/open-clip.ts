/**
 * Checkpoints in open_clip's layout (HPSv2, LAION's CLIP): what transformers' config would say,
 * told from shapes and open_clip_config.json.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { invalid, type ModelSourceDto } from '@spindle/native';
import { openClipKeys, openClipTextKeys, openClipVisionKeys } from '../config-keys/open-clip.js';
import { checkKeys } from '../config-keys/rules.js';
import {
  describe,
  isObject,
  readJsonObject,
  stringifyJson,
  type JsonObject,
} from '../files/json.js';
import { readSafetensorsHeader, type TensorField } from '@spindle/kit';

const marks = ['visual.conv1.weight', 'module.visual.conv1.weight'];

export function isOpenClipHeader(header: ReadonlyMap<string, TensorField>): boolean {
  return marks.some((name) => header.has(name));
}

/**
 * A config of transformers' CLIPModel with which the engine loads `file`. Heads and activation are
 * in no tensor: they come from open_clip_config.json beside the file, and are known without it for
 * ViT-H-14 alone (HPSv2, LAION-2B).
 */
export function openClipSource(
  file: string,
  warn: (message: string) => void = () => undefined,
): ModelSourceDto {
  const header = readSafetensorsHeader(file).tensors;
  if (!isOpenClipHeader(header))
    throw invalid(
      file,
      `expected open_clip's tensors (visual.conv1.weight), got none of that name`,
    );
  const prefix = header.has(marks[1] ?? '') ? 'module.' : '';
  const shape = (name: string): number[] => {
    const found = header.get(`${prefix}${name}`) ?? header.get(`${prefix}text.${name}`);
    if (found === undefined) throw invalid(file, `${name}: expected a tensor, got none`);
    return found.shape;
  };
  const dimension = (name: string, index: number): number => {
    const value = shape(name)[index];
    if (value === undefined)
      throw invalid(
        file,
        `${name}: expected at least ${index + 1} dimensions, got shape ${describe(shape(name))}`,
      );
    return value;
  };
  const layers = (part: string): number => {
    let count = 0;
    while (
      header.has(`${prefix}${part}transformer.resblocks.${count}.ln_1.weight`) ||
      (part === '' && header.has(`${prefix}text.transformer.resblocks.${count}.ln_1.weight`))
    )
      count++;
    return count;
  };
  const width = dimension('visual.conv1.weight', 0);
  const patch = dimension('visual.conv1.weight', 2);
  const textWidth = dimension('token_embedding.weight', 1);
  const side = Math.round(Math.sqrt(dimension('visual.positional_embedding', 0) - 1));
  const context = dimension('positional_embedding', 0);
  const { visionHeads, textHeads, activation } = readSettings(
    file,
    { width, textWidth, visionLayers: layers('visual.'), imageSize: side * patch, context },
    warn,
  );
  const config = {
    model_type: 'clip',
    projection_dim: dimension('text_projection', 1),
    text_config: {
      vocab_size: dimension('token_embedding.weight', 0),
      hidden_size: textWidth,
      intermediate_size: dimension('transformer.resblocks.0.mlp.c_fc.weight', 0),
      num_hidden_layers: layers(''),
      num_attention_heads: textHeads,
      max_position_embeddings: context,
      hidden_act: activation,
      // "The largest id ends a text", as open_clip has it.
      eos_token_id: 2,
    },
    vision_config: {
      hidden_size: width,
      intermediate_size: dimension('visual.transformer.resblocks.0.mlp.c_fc.weight', 0),
      num_hidden_layers: layers('visual.'),
      num_attention_heads: visionHeads,
      num_channels: dimension('visual.conv1.weight', 1),
      image_size: side * patch,
      patch_size: patch,
      hidden_act: activation,
    },
  };
  return { config: stringifyJson(config), weights: [file], label: file };
}

/** What the tensors say. */
interface Told {
  width: number;
  visionLayers: number;
  textWidth: number;
  imageSize: number;
  context: number;
}

interface Settings {
  visionHeads: number;
  textHeads: number;
  activation: 'gelu' | 'quick_gelu';
}

function readSettings(file: string, told: Told, warn: (message: string) => void): Settings {
  const { width, visionLayers, textWidth } = told;
  const settingsFile = join(dirname(file), 'open_clip_config.json');
  if (existsSync(settingsFile)) return readOpenClipConfig(settingsFile, told, warn);
  if (width === 1280 && visionLayers === 32 && textWidth === 1024)
    return { visionHeads: 16, textHeads: 16, activation: 'gelu' };
  throw invalid(
    file,
    `expected open_clip_config.json beside it, since tensors do not say how many heads a ` +
      `model has (known without it: ViT-H-14), got none`,
  );
}

function readOpenClipConfig(
  file: string,
  { width, imageSize, context }: Told,
  warn: (message: string) => void,
): Settings {
  const whole = readJsonObject(file);
  const model = isObject(whole['model_cfg']) ? whole['model_cfg'] : whole;
  const part = (key: string): JsonObject => {
    const value = model[key];
    if (!isObject(value)) throw invalid(file, `${key}: expected an object, got ${describe(value)}`);
    return value;
  };
  const vision = part('vision_cfg');
  const text = part('text_cfg');
  // Beside the model stands, e.g., preprocess_cfg, where there is a model_cfg.
  checkKeys(model, openClipKeys, file).forEach(warn);
  checkKeys(vision, openClipVisionKeys, `${file}: vision_cfg`).forEach(warn);
  checkKeys(text, openClipTextKeys, `${file}: text_cfg`).forEach(warn);
  // The library stretches position embeddings of another size.
  const sides = vision['image_size'] ?? imageSize;
  if ((Array.isArray(sides) ? sides : [sides]).some((side) => side !== imageSize))
    throw invalid(
      file,
      `vision_cfg.image_size: expected ${imageSize} (the weights'), got ${describe(sides)}`,
    );
  if ((text['context_length'] ?? context) !== context)
    throw invalid(
      file,
      `text_cfg.context_length: expected ${context} (the weights'), got ` +
        describe(text['context_length']),
    );
  const headWidth = vision['head_width'] ?? 64;
  const heads = text['heads'] ?? 8;
  if (typeof headWidth !== 'number' || headWidth < 1 || width % headWidth !== 0)
    throw invalid(
      file,
      `vision_cfg.head_width: expected a divisor of the width ${width}, got ${describe(headWidth)}`,
    );
  if (typeof heads !== 'number')
    throw invalid(file, `text_cfg.heads: expected a number, got ${describe(heads)}`);
  return {
    visionHeads: width / headWidth,
    textHeads: heads,
    activation: model['quick_gelu'] === true ? 'quick_gelu' : 'gelu',
  };
}
