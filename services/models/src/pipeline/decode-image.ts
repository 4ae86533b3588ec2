/**
 * Image files in: whatever a data set holds becomes the RGB bytes that Pillow and transformers make
 * of it (docs/DATA.md names the exceptions), or is refused by name.
 */
import { readFile, stat } from 'node:fs/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import sharp, { type Metadata } from 'sharp';
import { EngineError, invalid, toEngineError, type RgbImage } from '@spindle/native';
import { ByteBudget } from './byte-budget.js';
import { refuseUnsupportedImage } from './image-formats.js';

/** Raised when an image file may come to other bytes, or to another size in other bytes. */
export const imageVersion = 1;

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
/** Their decoders hold a whole picture beside the bytes that come out. */
const wholeFormats: ReadonlySet<string> = new Set(['webp', 'gif', 'heif', 'avif']);

/** Of images that a process holds at a time: eight of ten megapixels, or one of 64. */
export const mostDecodedBytes = 256 * 1024 * 1024;
const budget = new ByteBudget(mostDecodedBytes);
/** Of an image from which on its memory is freed at once. */
const collectedBytes = mostDecodedBytes / 4;

export async function decodeImageFile(file: string): Promise<RgbImage> {
  return decodeImage(await readImageFile(file), file);
}

/** The bytes of a file that may be an image. */
async function readImageFile(file: string): Promise<Buffer> {
  try {
    const info = await stat(file);
    if (!info.isFile()) throw invalid(file, 'expected an image file, got something else');
    if (info.size > maxFileBytes)
      throw invalid(
        file,
        `expected an image file of at most ${maxFileBytes} bytes, got ${info.size}`,
      );
    return await readFile(file);
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
}

/**
 * EXIF rotation applied, alpha over white, palette, grey, 16-bit and CMYK converted, colour
 * profiles left aside, first frame of an animation.
 */
export async function decodeImage(bytes: Buffer, where: string): Promise<RgbImage> {
  return decode(bytes, where, await readHeader(bytes, where));
}

/**
 * What `use` makes of an image. Pictures that are decoded here share one budget of memory, so many
 * of them wait for each other; the image must not be kept.
 */
export async function useImage<T>(
  bytes: Buffer,
  where: string,
  use: (image: RgbImage) => T,
  signal: AbortSignal,
): Promise<T> {
  const header = await readHeader(bytes, where);
  const size = decodedBytes(header);
  const decoded = async (): Promise<T> => use(await decode(bytes, where, header));
  const work = async (): Promise<T> => {
    const made = await decoded();
    if (size >= collectedBytes) collectGarbage();
    return made;
  };
  return budget.use(size, work, signal);
}

/** Frees a large picture before the next one is decoded; the collector alone is too late. */
function collectGarbage(): void {
  collector ??= exposeCollector();
  collector();
}

let collector: (() => void) | undefined;

function exposeCollector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

async function readHeader(bytes: Buffer, where: string): Promise<Metadata> {
  if (bytes.length === 0) throw invalid(where, 'expected an image, got an empty file');
  refuseUnsupportedImage(bytes, where);
  const header = await undecodable(where, () =>
    sharp(bytes, { limitInputPixels: false, failOn: 'error' }).metadata(),
  );
  if (!formats.has(header.format))
    throw invalid(where, `expected an image (${[...formats].join(', ')}), got ${header.format}`);
  if (header.width * header.height > maxPixels) {
    throw invalid(
      where,
      `expected at most ${maxPixels / 1e6} megapixels, got ${header.width}x${header.height}`,
    );
  }
  return header;
}

/** What decoding the image in a file takes. */
export async function decodedBytesOf(file: string): Promise<number> {
  return decodedBytes(await readHeader(await readImageFile(file), file));
}

/** What decoding takes: the bytes that come out, and as many where the picture is held as well. */
function decodedBytes({
  width,
  height,
  format,
  space,
  hasAlpha,
  orientation = 1,
  isProgressive,
}: Metadata): number {
  const channels = hasAlpha || space === 'cmyk' ? 4 : 3;
  const held = orientation > 1 || isProgressive || wholeFormats.has(format);
  return width * height * channels * (held ? 2 : 1);
}

async function decode(bytes: Buffer, where: string, { space }: Metadata): Promise<RgbImage> {
  const { data, info } = await undecodable(where, () => {
    const image = sharp(bytes, {
      limitInputPixels: maxPixels,
      failOn: 'error',
      sequentialRead: true,
      // As Pillow, and so all that reads training images with it.
      ignoreIcc: true,
    }).rotate();
    return (
      space === 'cmyk'
        ? image.pipelineColourspace('cmyk').toColourspace('cmyk')
        : image.toColourspace('srgb')
    )
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
  });
  if (info.channels !== (space === 'cmyk' ? 4 : 3) && info.channels !== 4)
    throw invalid(where, `expected an image that converts to RGB, got ${info.channels} channels`);
  const convert = space === 'cmyk' ? cmykToRgb : info.channels === 4 ? overWhite : null;
  convert?.(data);
  return {
    rgb: new Uint8Array(data.buffer, data.byteOffset, info.width * info.height * 3),
    width: info.width,
    height: info.height,
  };
}

/** `read`, whose failures are the image's. */
async function undecodable<T>(where: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new EngineError(
      'INVALID_ARGUMENT',
      `${where}: expected an image, got a file that does not decode (${firstLine(cause)})`,
      { cause },
    );
  }
}

function firstLine(thrown: unknown): string {
  return (thrown instanceof Error ? thrown.message : String(thrown)).split('\n')[0] ?? '';
}

/** RGBA -> RGB in the same memory, as Pillow's alpha_composite on white. */
function overWhite(data: Buffer): void {
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    const share = (data[from + 3] ?? 0) << 7;
    const white = (255 * 128 - share) * 255 + (0x80 << 7);
    const red = (data[from] ?? 0) * share + white;
    const green = (data[from + 1] ?? 0) * share + white;
    const blue = (data[from + 2] ?? 0) * share + white;
    data[to] = ((red >> 8) + red) >> 15;
    data[to + 1] = ((green >> 8) + green) >> 15;
    data[to + 2] = ((blue >> 8) + blue) >> 15;
  }
}

/** CMYK -> RGB in the same memory, as Pillow's convert: without any profile. */
function cmykToRgb(data: Buffer): void {
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    const light = 255 - (data[from + 3] ?? 0);
    for (let c = 0; c < 3; c++) {
      const product = (data[from + c] ?? 0) * light + 128;
      data[to + c] = Math.max(0, light - (((product >> 8) + product) >> 8));
    }
  }
}
