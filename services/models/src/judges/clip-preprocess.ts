/** The config of a CLIPImageProcessor -> what the addon's preprocessImage takes. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import {
  invalid,
  resizeFilters,
  type ImagePreprocessDto,
  type PreprocessMethod,
} from '@spindle/native';
import {
  describe,
  isObject,
  readJsonObject,
  type JsonObject,
  type JsonValue,
} from '../files/json.js';

export const clipMean = [0.48145466, 0.4578275, 0.40821073];
export const clipStd = [0.26862954, 0.26130258, 0.27577711];
const bilinear = 2;
const bicubic = 3;

interface PreprocessConfig {
  file: string;
  /** In the keys of transformers. */
  config: JsonObject;
  /** That of the library whose file it is. */
  method: PreprocessMethod;
}

/** What a CLIP folder says of preprocessing, and the file that says it; undefined: none does. */
export function findPreprocessConfig(directory: string): PreprocessConfig | undefined {
  // Where both are there, transformers 5 takes the newer one.
  const processor = join(directory, 'processor_config.json');
  if (existsSync(processor)) {
    const config = readJsonObject(processor)['image_processor'] ?? undefined;
    if (isObject(config))
      return { file: `${processor}: image_processor`, config, method: 'transformers' };
    if (config !== undefined)
      throw invalid(processor, `image_processor: expected an object, got ${describe(config)}`);
  }
  const file = join(directory, 'preprocessor_config.json');
  if (existsSync(file)) return { file, config: readJsonObject(file), method: 'transformers' };
  const openClip = join(directory, 'open_clip_config.json');
  if (!existsSync(openClip)) return undefined;
  const own = readJsonObject(openClip)['preprocess_cfg'];
  if (!isObject(own)) return undefined;
  return fromOpenClip(own, `${openClip}: preprocess_cfg`);
}

/** Where it leaves something open, open_clip's defaults are those of transformers. */
function fromOpenClip(own: JsonObject, file: string): PreprocessConfig {
  const config: JsonObject = {};
  if (own['mean'] !== undefined) config['image_mean'] = own['mean'];
  if (own['std'] !== undefined) config['image_std'] = own['std'];
  const mode = own['resize_mode'] ?? 'shortest';
  if (mode !== 'shortest')
    throw invalid(file, `resize_mode: expected "shortest", got ${describe(mode)}`);
  const name = own['interpolation'] ?? 'bicubic';
  // open_clip takes "random" for training; it judges with bicubic.
  const filter = (resizeFilters as readonly JsonValue[]).indexOf(
    name === 'random' ? 'bicubic' : name,
  );
  if (filter !== bicubic && filter !== bilinear)
    throw invalid(
      file,
      `interpolation: expected "bicubic", "bilinear" or "random", got ${describe(name)}`,
    );
  config['resample'] = filter;
  return { file, config, method: 'torchvision' };
}

/**
 * `imageSize` is the vision tower's, which the crop must equal; `library`'s way is taken where the
 * folder says nothing.
 */
export function readImagePreprocess(
  directory: string,
  imageSize: number,
  library: PreprocessMethod = 'transformers',
): ImagePreprocessDto {
  const { file, config, method } = findPreprocessConfig(directory) ?? {
    file: join(directory, 'preprocessor_config.json'),
    config: {},
    method: library,
  };
  for (const step of ['do_resize', 'do_center_crop', 'do_rescale', 'do_normalize']) {
    if (config[step] === false)
      throw invalid(file, `${step}: expected true, got false (not supported)`);
  }
  const resample = config['resample'] ?? bicubic;
  const filter = typeof resample === 'number' ? resizeFilters[resample] : undefined;
  if (filter === undefined) {
    const known = resizeFilters.map((name, number) => `${number} (${name})`).join(', ');
    throw invalid(file, `resample: expected ${known}, got ${describe(resample)}`);
  }
  const rescale = config['rescale_factor'] ?? 1 / 255;
  if (typeof rescale !== 'number' || Math.abs(rescale - 1 / 255) > 1e-6)
    throw invalid(file, `rescale_factor: expected 1/255, got ${describe(rescale)}`);
  const crop = sizeOf(config['crop_size'] ?? imageSize, `crop_size`, file);
  if (crop.height !== imageSize || crop.width !== imageSize) {
    throw invalid(
      file,
      `crop_size: expected ${imageSize}x${imageSize} (the model's image_size), got ` +
        `${crop.height}x${crop.width}`,
    );
  }
  const size = config['size'] ?? imageSize;
  const resize = isObject(size) ? size['shortest_edge'] : size;
  if (typeof resize !== 'number' || !Number.isInteger(resize) || resize < imageSize) {
    throw invalid(
      file,
      `size: expected {"shortest_edge": N} with N at least ${imageSize}, got ${describe(size)}`,
    );
  }
  return {
    resize,
    cropHeight: crop.height,
    cropWidth: crop.width,
    mean: triple(config['image_mean'] ?? clipMean, 'image_mean', file),
    std: triple(config['image_std'] ?? clipStd, 'image_std', file),
    method,
    filter,
    rescale,
  };
}

function sizeOf(value: JsonValue, field: string, file: string): { height: number; width: number } {
  if (typeof value === 'number') return { height: value, width: value };
  if (isObject(value) && typeof value['height'] === 'number' && typeof value['width'] === 'number')
    return { height: value['height'], width: value['width'] };
  throw invalid(file, `${field}: expected a number or {"height", "width"}, got ${describe(value)}`);
}

function triple(value: JsonValue, field: string, file: string): number[] {
  const numbers = Array.isArray(value) ? value.filter((item) => typeof item === 'number') : [];
  if (numbers.length !== 3 || !Array.isArray(value) || value.length !== 3)
    throw invalid(file, `${field}: expected three numbers, got ${describe(value)}`);
  return numbers;
}
