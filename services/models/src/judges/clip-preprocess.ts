/** The config of a CLIPImageProcessor -> what the addon's preprocessImage takes. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, resizeFilters, type ImagePreprocessDto } from '@spindle/native';
import { imageProcessorKeys } from '../config-keys/image-processor.js';
import { openClipPreprocessKeys } from '../config-keys/open-clip.js';
import { checkKeys } from '../config-keys/rules.js';
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
  config: JsonObject;
  library: 'transformers' | 'open_clip';
}

/** What a CLIP folder says of preprocessing, and the file that says it; undefined: none does. */
export function findPreprocessConfig(
  directory: string,
  warn: (message: string) => void = () => undefined,
): PreprocessConfig | undefined {
  // Where both are there, transformers 5 takes the newer one.
  const processor = join(directory, 'processor_config.json');
  if (existsSync(processor)) {
    const config = readJsonObject(processor)['image_processor'] ?? undefined;
    if (isObject(config))
      return { file: `${processor}: image_processor`, config, library: 'transformers' };
    if (config !== undefined)
      throw invalid(processor, `image_processor: expected an object, got ${describe(config)}`);
  }
  const file = join(directory, 'preprocessor_config.json');
  if (existsSync(file)) return { file, config: readJsonObject(file), library: 'transformers' };
  // open_clip's own; the other keys are refused where they are not its defaults, which are ours.
  const openClip = join(directory, 'open_clip_config.json');
  if (!existsSync(openClip)) return undefined;
  const own = readJsonObject(openClip)['preprocess_cfg'];
  if (!isObject(own)) return undefined;
  checkKeys(own, openClipPreprocessKeys, `${openClip}: preprocess_cfg`).forEach(warn);
  const config: JsonObject = {};
  if (own['mean'] !== undefined) config['image_mean'] = own['mean'];
  if (own['std'] !== undefined) config['image_std'] = own['std'];
  if (own['interpolation'] === 'bilinear') config['resample'] = bilinear;
  return { file: `${openClip}: preprocess_cfg`, config, library: 'open_clip' };
}

/** Of CLIPImageProcessor, whatever the model. */
const defaultSize = 224;

/**
 * `imageSize` is the vision tower's, which the crop must equal; where the folder says nothing, the
 * library of `layout` decides.
 */
export function readImagePreprocess(
  directory: string,
  imageSize: number,
  {
    layout = 'transformers',
    warn = () => undefined,
  }: { layout?: PreprocessConfig['library']; warn?: (message: string) => void } = {},
): ImagePreprocessDto {
  const found = findPreprocessConfig(directory, warn);
  const file = found?.file ?? join(directory, 'preprocessor_config.json');
  const config = found?.config ?? {};
  checkKeys(config, imageProcessorKeys, file).forEach(warn);
  // Where no library says a size, images come at the model's.
  const fallback = found?.library === 'transformers' ? defaultSize : imageSize;
  const resample = config['resample'] ?? bicubic;
  const filter = typeof resample === 'number' ? resizeFilters[resample] : undefined;
  if (filter === undefined) {
    const known = resizeFilters.map((name, number) => `${number} (${name})`).join(', ');
    throw invalid(file, `resample: expected ${known}, got ${describe(resample)}`);
  }
  const rescale = config['rescale_factor'] ?? 1 / 255;
  if (typeof rescale !== 'number' || Math.abs(rescale * 255 - 1) > 1e-7)
    throw invalid(file, `rescale_factor: expected 1/255, got ${describe(rescale)}`);
  const crop = sizeOf(config['crop_size'] ?? fallback, `crop_size`, file);
  if (crop.height !== imageSize || crop.width !== imageSize) {
    throw invalid(
      file,
      `crop_size: expected ${imageSize}x${imageSize} (the model's image_size), got ` +
        `${crop.height}x${crop.width}`,
    );
  }
  const size = config['size'] ?? fallback;
  const sized = isObject(size) ? Object.keys(size).filter((key) => size[key] !== null) : [];
  const resize = sized.join() === 'shortest_edge' && isObject(size) ? size['shortest_edge'] : size;
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
    // open_clip's own transform is torchvision's.
    method: (found?.library ?? layout) === 'open_clip' ? 'torchvision' : 'transformers',
    filter,
    rescale,
  };
}

function sizeOf(value: JsonValue, field: string, file: string): { height: number; width: number } {
  if (typeof value === 'number') return { height: value, width: value };
  const known = isObject(value)
    ? Object.keys(value).every((key) => key === 'height' || key === 'width')
    : false;
  if (
    known &&
    isObject(value) &&
    typeof value['height'] === 'number' &&
    typeof value['width'] === 'number'
  )
    return { height: value['height'], width: value['width'] };
  throw invalid(file, `${field}: expected a number or {"height", "width"}, got ${describe(value)}`);
}

function triple(value: JsonValue, field: string, file: string): number[] {
  const numbers = Array.isArray(value) ? value.filter((item) => typeof item === 'number') : [];
  if (numbers.length !== 3 || !Array.isArray(value) || value.length !== 3)
    throw invalid(file, `${field}: expected three numbers, got ${describe(value)}`);
  return numbers;
}
