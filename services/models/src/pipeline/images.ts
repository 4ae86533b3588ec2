/** Image files in and out: whatever a data set holds becomes 8-bit sRGB, or is refused by name. */
import { readFile, stat } from 'node:fs/promises';
import sharp from 'sharp';
import {
  EngineError,
  invalid,
  toEngineError,
  type Engine,
  type ResizeFilter,
  type RgbImage,
  type TensorDto,
} from '@spindle/native';
import { refuseUnsupportedImage } from './image-formats.js';
import type { TimeIds } from './text-to-image.js';

export const maxPixels = 64_000_000;
const maxFileBytes = 512 * 1024 * 1024;
const formats: ReadonlySet<string> = new Set([
  'png',
  'jpeg',
  'jpg',
  'webp',
  'gif',
  'tiff',
  'heif',
  'avif',
]);

export async function decodeImageFile(file: string): Promise<RgbImage> {
  let bytes: Buffer;
  try {
    const info = await stat(file);
    if (!info.isFile()) throw invalid(file, 'expected an image file, got something else');
    if (info.size > maxFileBytes)
      throw invalid(
        file,
        `expected an image file of at most ${maxFileBytes} bytes, got ${info.size}`,
      );
    bytes = await readFile(file);
  } catch (cause) {
    if (cause instanceof EngineError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new EngineError(
        'INVALID_ARGUMENT',
        `${file}: expected an image file, got no such file`,
        { cause },
      );
    // The machine's fault, not the image's.
    throw toEngineError(
      Object.assign(new Error(`${file}: the file cannot be read: ${message}`, { cause }), { code }),
    );
  }
  return decodeImage(bytes, file);
}

/**
 * EXIF rotation applied, alpha over white, palette, grey, 16-bit and CMYK converted, first frame of
 * an animation.
 */
export async function decodeImage(bytes: Buffer, where: string): Promise<RgbImage> {
  if (bytes.length === 0) throw invalid(where, 'expected an image, got an empty file');
  refuseUnsupportedImage(bytes, where);
  try {
    const header = await sharp(bytes, { limitInputPixels: false, failOn: 'error' }).metadata();
    if (!formats.has(header.format))
      throw invalid(where, `expected an image (${[...formats].join(', ')}), got ${header.format}`);
    if (header.width * header.height > maxPixels) {
      throw invalid(
        where,
        `expected at most ${maxPixels / 1e6} megapixels, got ${header.width}x${header.height}`,
      );
    }
    const { data, info } = await sharp(bytes, {
      limitInputPixels: maxPixels,
      failOn: 'error',
      sequentialRead: true,
    })
      .rotate()
      .toColourspace('srgb')
      .flatten({ background: '#ffffff' })
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
    if (info.channels !== 3)
      throw invalid(where, `expected an image that converts to RGB, got ${info.channels} channels`);
    return {
      rgb: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      width: info.width,
      height: info.height,
    };
  } catch (cause) {
    if (cause instanceof EngineError) throw cause;
    throw new EngineError(
      'INVALID_ARGUMENT',
      `${where}: expected an image, got a file that does not decode (${firstLine(cause)})`,
      {
        cause,
      },
    );
  }
}

function firstLine(thrown: unknown): string {
  return (thrown instanceof Error ? thrown.message : String(thrown)).split('\n')[0] ?? '';
}

/** An image as training sees it, and how it came to be so. */
export interface PreparedImage extends RgbImage {
  timeIds: TimeIds;
}

/** How an image is resized and cut. */
export interface Framing {
  filter: ResizeFilter;
  flip: boolean;
  /**
   * Where the image is cut, each from 0 (left, top) to below 1 (right, bottom); null: the centre.
   */
  at: { x: number; y: number } | null;
}

const standardFraming: Framing = { filter: 'bilinear', flip: false, at: null };

/** A square of so many pixels per side, or a size of its own. */
export type TargetSize = number | { height: number; width: number };

/**
 * Resized (antialiased) until it just covers the target, flipped left to right if asked, then cut
 * to it; the place of the cut is that in the flipped image. Time ids are the image's own size, the
 * cut's place and the target.
 */
export function resizeAndCrop(
  engine: Pick<Engine, 'resizeImage'>,
  image: RgbImage,
  target: TargetSize,
  framing: Framing = standardFraming,
): PreparedImage {
  const size = typeof target === 'number' ? { height: target, width: target } : target;
  const narrow = image.width * size.height <= image.height * size.width;
  const high = image.height * size.width <= image.width * size.height;
  // torchvision truncates the longer side.
  const width = narrow
    ? size.width
    : Math.max(size.width, Math.trunc((size.height * image.width) / image.height));
  const height = high
    ? size.height
    : Math.max(size.height, Math.trunc((size.width * image.height) / image.width));
  const resized =
    width === image.width && height === image.height
      ? image
      : engine.resizeImage(image, width, height, framing.filter);
  const turned = framing.flip ? flipped(resized) : resized;
  const { at } = framing;
  const { left, top } =
    at === null
      ? centreOf(turned, size)
      : { left: placed(at.x, width - size.width), top: placed(at.y, height - size.height) };
  return {
    ...crop(turned, size, left, top),
    timeIds: [image.height, image.width, top, left, size.height, size.width],
  };
}

/** One of the offsets 0 to `room`, all equally likely for a uniform `share` below 1. */
function placed(share: number, room: number): number {
  return Math.min(room, Math.floor(share * (room + 1)));
}

/** The image as a mirror shows it. */
export function flipped({ rgb, width, height }: RgbImage): RgbImage {
  const out = new Uint8Array(rgb.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * width + x) * 3;
      const to = (y * width + (width - 1 - x)) * 3;
      out.set(rgb.subarray(from, from + 3), to);
    }
  }
  return { rgb: out, width, height };
}

interface Size {
  height: number;
  width: number;
}

function centreOf(image: RgbImage, { height, width }: Size): { left: number; top: number } {
  return {
    left: halfToEven(image.width - width),
    top: halfToEven(image.height - height),
  };
}

/** Half of a whole number, 0.5 to the even one: Python's round, by which torchvision crops. */
function halfToEven(room: number): number {
  const low = Math.floor(room / 2);
  return room % 2 === 0 || low % 2 === 0 ? low : low + 1;
}

/** A square out of the middle. */
export function centerCrop(image: RgbImage, side: number): RgbImage {
  const size = { height: side, width: side };
  const { left, top } = centreOf(image, size);
  return crop(image, size, left, top);
}

function crop(image: RgbImage, { height, width }: Size, left: number, top: number): RgbImage {
  if (image.width === width && image.height === height) return image;
  const rgb = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * image.width + left) * 3;
    rgb.set(image.rgb.subarray(from, from + width * 3), y * width * 3);
  }
  return { rgb, width, height };
}

/** (N, 3, H, W) in [-1, 1] of images of one size. */
export function toPixels(images: readonly RgbImage[]): TensorDto {
  const first = images[0];
  if (first === undefined) throw invalid('images', 'expected at least one, got none');
  const plane = first.width * first.height;
  const data = new Float32Array(images.length * 3 * plane);
  images.forEach((image, n) => {
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < 3; c++)
        data[(n * 3 + c) * plane + i] = (image.rgb[i * 3 + c] ?? 0) / 127.5 - 1;
    }
  });
  return { data, shape: [images.length, 3, first.height, first.width] };
}

/** Image `n` of (N, 3, H, W), clamped to [-1, 1] and rounded to 8 bits. */
export function toRgb(pixels: TensorDto, n: number): RgbImage {
  const [, , height = 0, width = 0] = pixels.shape;
  const plane = height * width;
  const rgb = new Uint8Array(plane * 3);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < plane; i++) {
      const value = pixels.data[(n * 3 + c) * plane + i] ?? 0;
      rgb[i * 3 + c] = Math.round((Math.min(1, Math.max(-1, value)) + 1) * 127.5);
    }
  }
  return { rgb, width, height };
}

/** The same bytes for the same pixels: fixed filter and level, no metadata. */
export function encodePng(image: RgbImage): Promise<Buffer> {
  return sharp(image.rgb, { raw: { width: image.width, height: image.height, channels: 3 } })
    .png({ compressionLevel: 6, adaptiveFiltering: false, palette: false })
    .toBuffer();
}
