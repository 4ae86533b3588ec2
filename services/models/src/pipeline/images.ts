/** Images as models take and give them, and as files out. */
import sharp from 'sharp';
import {
  invalid,
  type Engine,
  type ResizeFilter,
  type RgbImage,
  type TensorDto,
  type WindowDto,
} from '@spindle/native';
import type { TimeIds } from './text-to-image.js';

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
  const { at, flip, filter } = framing;
  const { left, top } =
    at === null
      ? centreOf({ width, height }, size)
      : { left: placed(at.x, width - size.width), top: placed(at.y, height - size.height) };
  const window = { ...size, top, left: flip ? width - size.width - left : left };
  const cut =
    width === image.width && height === image.height
      ? crop(image, window)
      : engine.resizeImage(image, { width, height, filter, window });
  return {
    ...(flip ? flipped(cut) : cut),
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

function centreOf(image: Size, { height, width }: Size): { left: number; top: number } {
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
  return crop(image, { ...size, ...centreOf(image, size) });
}

function crop(image: RgbImage, { left, top, width, height }: WindowDto): RgbImage {
  if (image.width === width && image.height === height) return image;
  const rgb = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * image.width + left) * 3;
    rgb.set(image.rgb.subarray(from, from + width * 3), y * width * 3);
  }
  return { rgb, width, height };
}

/** Of every byte, by the steps of ToTensor and Normalize([0.5], [0.5]) in single precision. */
const values = Float32Array.from({ length: 256 }, (_, byte) =>
  Math.fround((Math.fround(byte / 255) - 0.5) / 0.5),
);

/** (N, 3, H, W) in [-1, 1] of images of one size. */
export function toPixels(images: readonly RgbImage[]): TensorDto {
  const first = images[0];
  if (first === undefined) throw invalid('images', 'expected at least one, got none');
  const plane = first.width * first.height;
  const data = new Float32Array(images.length * 3 * plane);
  images.forEach((image, n) => {
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < 3; c++)
        data[(n * 3 + c) * plane + i] = values[image.rgb[i * 3 + c] ?? 0] ?? 0;
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
