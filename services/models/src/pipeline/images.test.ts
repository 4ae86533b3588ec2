import sharp from 'sharp';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { centerCrop, encodePng, resizeAndCrop, toPixels, toRgb } from './images.js';
import { decodeImage, decodeImageFile, useImage } from './decode-image.js';
import { type ResizeDto, type RgbImage } from '@spindle/native';

const red = { r: 255, g: 0, b: 0 };
const canvas = (width: number, height: number, background: object, channels: 3 | 4 = 3) =>
  sharp({ create: { width, height, channels, background: background as typeof red } });
/** Gives black windows and notes what was asked for. */
const resizer = (asked: ResizeDto[]) => ({
  resizeImage: (_image: RgbImage, to: ResizeDto): RgbImage => {
    asked.push(to);
    const { left, top, width, height } = to.window;
    const spare = Math.min(left, top, to.width - left - width, to.height - top - height);
    expect(spare).toBeGreaterThanOrEqual(0);
    return { rgb: new Uint8Array(width * height * 3), width, height };
  },
});
const pixel = (image: RgbImage, x: number, y: number): number[] => [
  ...image.rgb.subarray((y * image.width + x) * 3, (y * image.width + x) * 3 + 3),
];

describe('decodeImage', () => {
  it('keeps the bytes of an RGB PNG', async () => {
    const rgb = Uint8Array.from({ length: 5 * 3 * 3 }, (_, i) => (i * 37) % 256);
    const png = await encodePng({ rgb, width: 5, height: 3 });
    const image = await decodeImage(png, 'a.png');
    expect([image.width, image.height, ...image.rgb]).toEqual([5, 3, ...rgb]);
    expect(await encodePng(image)).toEqual(png);
  });

  it('draws transparent parts over white', async () => {
    const png = await canvas(2, 2, { ...red, alpha: 0 }, 4)
      .png()
      .toBuffer();
    expect(pixel(await decodeImage(png, 'a.png'), 0, 0)).toEqual([255, 255, 255]);
    const half = await canvas(2, 2, { ...red, alpha: 0.5 }, 4)
      .png()
      .toBuffer();
    expect(pixel(await decodeImage(half, 'a.png'), 1, 1)).toEqual([255, 127, 127]);
    // What Pillow 13's alpha_composite on white gives.
    const rgba = Uint8Array.of(10, 200, 90, 77, 3, 2, 1, 254, 250, 128, 0, 1);
    const faint = await sharp(rgba, { raw: { width: 3, height: 1, channels: 4 } })
      .png()
      .toBuffer();
    expect([...(await decodeImage(faint, 'a.png')).rgb]).toEqual([
      181, 238, 205, 4, 3, 2, 255, 255, 254,
    ]);
  });

  it('converts palette, grey, 16-bit and CMYK images', async () => {
    const palette = await canvas(4, 4, red).png({ palette: true }).toBuffer();
    expect(pixel(await decodeImage(palette, 'a.png'), 3, 3)).toEqual([255, 0, 0]);
    const grey = await canvas(4, 4, { r: 128, g: 128, b: 128 })
      .toColourspace('b-w')
      .png()
      .toBuffer();
    expect(pixel(await decodeImage(grey, 'a.png'), 0, 0)).toEqual([128, 128, 128]);
    const deep = await canvas(4, 4, red).toColourspace('rgb16').png().toBuffer();
    expect(pixel(await decodeImage(deep, 'a.png'), 0, 0)).toEqual([255, 0, 0]);
    const deepAlpha = await canvas(4, 4, { ...red, alpha: 0 }, 4)
      .toColourspace('rgb16')
      .png()
      .toBuffer();
    expect(pixel(await decodeImage(deepAlpha, 'a.png'), 0, 0)).toEqual([255, 255, 255]);
    const cmyk = await canvas(8, 8, red).toColourspace('cmyk').jpeg({ quality: 100 }).toBuffer();
    // Without any profile, as Pillow: ink times light.
    const { data: ink } = await sharp(cmyk, { ignoreIcc: true })
      .pipelineColourspace('cmyk')
      .toColourspace('cmyk')
      .raw()
      .toBuffer({ resolveWithObject: true });
    const light = 255 - (ink[3] ?? 0);
    const [c = 0, m = 0, y = 0] = ink;
    expect(pixel(await decodeImage(cmyk, 'a.jpg'), 0, 0)).toEqual(
      [c, m, y].map((part) => light - Math.round((part * light) / 255)),
    );
    const levels = Uint16Array.of(0, 255, 256, 0x1234, 0xffff);
    const grey16 = await sharp(levels, { raw: { width: 5, height: 1, channels: 1 } })
      .toColourspace('grey16')
      .png()
      .toBuffer();
    const { rgb } = await decodeImage(grey16, 'a.png');
    expect([...rgb].filter((_, i) => i % 3 === 0)).toEqual([0, 0, 1, 0x12, 0xff]);
  });

  it('leaves colour profiles aside', async () => {
    const rgb = Uint8Array.from({ length: 4 * 4 * 3 }, (_, i) => (i * 53) % 256);
    const wide = await sharp(rgb, { raw: { width: 4, height: 4, channels: 3 } })
      .withIccProfile('p3')
      .png()
      .toBuffer();
    const { data } = await sharp(wide, { ignoreIcc: true }).raw().toBuffer({
      resolveWithObject: true,
    });
    expect([...(await decodeImage(wide, 'a.png')).rgb]).toEqual([...data]);
    expect([...data]).not.toEqual([...(await sharp(wide).raw().toBuffer())]);
  });

  it('hands an image over, and says what is none as before', async () => {
    const { signal } = new AbortController();
    const png = await canvas(3, 2, red).png().toBuffer();
    expect(await useImage(png, 'a.png', (image) => pixel(image, 2, 1), signal)).toEqual([
      255, 0, 0,
    ]);
    await expect(useImage(Buffer.from('x'), 'a.png', () => 1, signal)).rejects.toThrow(/^a\.png: /);
    await expect(
      useImage(
        png,
        'a.png',
        () => expect.fail('not asked for'),
        AbortSignal.abort(new Error('no')),
      ),
    ).rejects.toThrow('no');
  });

  it('turns the picture as its EXIF orientation says', async () => {
    const jpeg = await canvas(8, 4, red).withMetadata({ orientation: 6 }).jpeg().toBuffer();
    const image = await decodeImage(jpeg, 'a.jpg');
    expect([image.width, image.height]).toEqual([4, 8]);
  });

  it('refuses what is empty, broken, truncated, enormous or no picture, and names it', async () => {
    await expect(decodeImage(Buffer.alloc(0), 'a.png')).rejects.toThrow(
      'a.png: expected an image, got an empty file',
    );
    await expect(decodeImage(Buffer.from('not an image'), 'a.png')).rejects.toThrow(
      /^a\.png: expected an image, got a file that does not decode/,
    );
    const noise = Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => (i * i * 31) % 251);
    const png = await encodePng({ rgb: noise, width: 64, height: 64 });
    await expect(decodeImage(png.subarray(0, png.length >> 1), 'cut.png')).rejects.toThrow(
      /^cut\.png: /,
    );
    const jpeg = await sharp(png).jpeg().toBuffer();
    await expect(decodeImage(jpeg.subarray(0, jpeg.length >> 1), 'cut.jpg')).rejects.toThrow(
      /^cut\.jpg: /,
    );
    const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>');
    await expect(decodeImage(svg, 'a.svg')).rejects.toThrow(/got svg/);
    const bomb = await canvas(9000, 8000, red).png().toBuffer();
    await expect(decodeImage(bomb, 'big.png')).rejects.toThrow(
      'big.png: expected at most 64 megapixels, got 9000x8000',
    );
  });

  it('names a missing file', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'images-'));
    await expect(decodeImageFile(join(folder, 'none.png'))).rejects.toThrow(
      /none\.png: expected an image file, got no such file/,
    );
    await writeFile(join(folder, 'empty.png'), '');
    await expect(decodeImageFile(join(folder, 'empty.png'))).rejects.toThrow(
      /empty\.png: expected an image, got an empty file/,
    );
    await rm(folder, { recursive: true });
  });
});

it.each([
  ['BMP', Buffer.from('BM6\0\0\0', 'latin1')],
  ['HEIC', Buffer.from('\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf', 'latin1')],
  ['HEIC', Buffer.from('\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf', 'latin1')],
  ['JPEG XL', Buffer.from('\xff\x0a\0\0', 'latin1')],
])('%s is refused by its name', async (name, bytes) => {
  await expect(decodeImage(bytes, 'a.img')).rejects.toThrow(
    `a.img: ${name} is not supported; expected png, jpeg, webp, gif, tiff or avif`,
  );
});

it('reads AVIF, which lies in the same container as HEIC', async () => {
  const avif = await canvas(16, 16, red).avif().toBuffer();
  expect(await decodeImage(avif, 'a.avif')).toMatchObject({ width: 16, height: 16 });
});

describe('resizeAndCrop', () => {
  // torchvision 0.29's CenterCrop; odd room is rounded half to even.
  it.each([
    [64, 0],
    [65, 0],
    [66, 1],
    [67, 2],
    [69, 2],
    [71, 4],
    [73, 4],
  ])('cuts 64 out of the middle of %i at %i', (side, start) => {
    const engine = { resizeImage: (): RgbImage => expect.fail('nothing is to be resized') };
    const wide = { rgb: new Uint8Array(side * 64 * 3), width: side, height: 64 };
    const high = { rgb: wide.rgb, width: 64, height: side };
    expect(resizeAndCrop(engine, wide, 64).timeIds).toEqual([64, side, 0, start, 64, 64]);
    expect(resizeAndCrop(engine, high, 64).timeIds).toEqual([side, 64, start, 0, 64, 64]);
  });

  it('asks for the shorter side and cuts the centre', () => {
    const asked: ResizeDto[] = [];
    const image = { rgb: new Uint8Array(100 * 50 * 3), width: 100, height: 50 };
    const engine = resizer(asked);
    expect(resizeAndCrop(engine, image, 32)).toMatchObject({ width: 32, height: 32 });
    expect(resizeAndCrop(engine, image, 50)).toMatchObject({ width: 50, height: 50 });
    const window = { left: 16, top: 0, width: 32, height: 32 };
    expect(asked).toEqual([{ width: 64, height: 32, filter: 'bilinear', window }]);
  });

  it('asks for the mirrored place of an image that is mirrored', () => {
    const asked: ResizeDto[] = [];
    const image = { rgb: new Uint8Array(100 * 50 * 3), width: 100, height: 50 };
    const framing = { filter: 'lanczos', flip: true, at: { x: 0, y: 0 } } as const;
    const { timeIds } = resizeAndCrop(resizer(asked), image, 25, framing);
    expect(timeIds).toEqual([50, 100, 0, 0, 25, 25]);
    expect(asked.map(({ window }) => window.left)).toEqual([25]);
  });

  it('mirrors first and cuts where it is told, up to the last place', () => {
    const engine = { resizeImage: (): RgbImage => expect.fail('nothing is to be resized') };
    // Red is the column's number.
    const rgb = Uint8Array.from({ length: 5 * 2 * 3 }, (_, i) =>
      i % 3 === 0 ? Math.floor(i / 3) % 5 : 9,
    );
    const image = { rgb, width: 5, height: 2 };
    const columns = (x: number, flip: boolean): number[] => {
      const cut = resizeAndCrop(engine, image, 2, { filter: 'lanczos', flip, at: { x, y: 0.99 } });
      expect(cut.timeIds).toEqual([2, 5, 0, Math.min(3, Math.floor(x * 4)), 2, 2]);
      return [0, 3, 6, 9].map((i) => cut.rgb[i] ?? -1);
    };
    expect(columns(0, false)).toEqual([0, 1, 0, 1]);
    expect(columns(0.99999, false)).toEqual([3, 4, 3, 4]);
    expect(columns(0.3, false)).toEqual([1, 2, 1, 2]);
    expect(columns(0, true)).toEqual([4, 3, 4, 3]);
    expect(columns(0.5, true)).toEqual([2, 1, 2, 1]);
  });

  it('covers a size that is no square, and cuts what stands over', () => {
    const asked: ResizeDto[] = [];
    const engine = resizer(asked);
    const prepare = (width: number, height: number, at: { x: number; y: number } | null = null) =>
      resizeAndCrop(
        engine,
        { rgb: new Uint8Array(width * height * 3), width, height },
        { height: 8, width: 12 },
        { filter: 'bilinear', flip: false, at },
      );
    // Too wide, too high, as wide as it should be, and of the size already.
    const cut = [
      prepare(40, 20),
      prepare(30, 60),
      prepare(30, 20),
      prepare(12, 8),
      prepare(40, 20, { x: 0.99, y: 0.99 }),
    ];
    expect(asked.map(({ width, height }) => [width, height])).toEqual([
      [16, 8],
      [12, 24],
      [12, 8],
      [16, 8],
    ]);
    for (const { width, height, rgb } of cut)
      expect([width, height, rgb.length]).toEqual([12, 8, 12 * 8 * 3]);
    expect(cut.map(({ timeIds }) => timeIds)).toEqual([
      [20, 40, 0, 2, 8, 12],
      [60, 30, 8, 0, 8, 12],
      [20, 30, 0, 0, 8, 12],
      [8, 12, 0, 0, 8, 12],
      [20, 40, 0, 4, 8, 12],
    ]);
  });

  it('never leaves a gap where rounding down would', () => {
    const engine = resizer([]);
    for (let width = 1; width <= 40; width++) {
      for (let height = 1; height <= 40; height++) {
        const image = { rgb: new Uint8Array(width * height * 3), width, height };
        const { timeIds, rgb } = resizeAndCrop(engine, image, { height: 6, width: 10 });
        expect([rgb.length, Math.min(...timeIds) >= 0]).toEqual([180, true]);
      }
    }
  });

  it('asks for the filter it is told', () => {
    const asked: ResizeDto[] = [];
    const engine = resizer(asked);
    const image = { rgb: new Uint8Array(4 * 4 * 3), width: 4, height: 4 };
    resizeAndCrop(engine, image, 2);
    resizeAndCrop(engine, image, 2, { filter: 'lanczos', flip: false, at: null });
    expect(asked.map(({ filter }) => filter)).toEqual(['bilinear', 'lanczos']);
  });

  it('cuts the middle columns', () => {
    const rgb = Uint8Array.from({ length: 4 * 2 * 3 }, (_, i) => Math.floor(i / 3) % 4);
    expect([...centerCrop({ rgb, width: 4, height: 2 }, 2).rgb]).toEqual([
      1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2,
    ]);
  });
});

it('maps bytes to [-1, 1] and back, clamping what lies outside', () => {
  const image = {
    rgb: Uint8Array.from({ length: 256 * 3 }, (_, i) => i % 256),
    width: 16,
    height: 16,
  };
  const pixels = toPixels([image, image]);
  expect(pixels.shape).toEqual([2, 3, 16, 16]);
  expect(toRgb(pixels, 1).rgb).toEqual(image.rgb);
  const wild = { data: Float32Array.of(3, -3, Number.NaN), shape: [1, 3, 1, 1] };
  expect([...toRgb(wild, 0).rgb]).toEqual([255, 0, 0]);
});
