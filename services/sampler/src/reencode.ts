/**
 * Generated images as a data set would hold them: decoded, rounded to 8 bits, framed like their
 * pair, and encoded again.
 */
import { concatRows, flipped } from '@spindle/models';
import { type RgbImage, type TensorDto } from '@spindle/native';
import { batchesOf, vaeBatchSize } from './domain/batches.js';
import { viewOf, type Transform } from './domain/transform.js';
import type { LoadedPipeline } from './engine.js';

export interface Reencoded {
  /** Data set index of every row: each item's views one after the other. */
  index: number[];
  mean: TensorDto;
  logvar: TensorDto;
}

/**
 * A generated image has the size of its real image already, so nothing is cut from it; it is
 * mirrored where its real image is.
 * `items` gives the data set index of every row of `latents`.
 */
export async function reencode(
  pipeline: LoadedPipeline,
  latents: TensorDto,
  items: readonly { index: number }[],
  transform: Transform,
  signal: AbortSignal,
): Promise<Reencoded> {
  const [count = 0] = latents.shape;
  const size = latents.data.length / Math.max(1, count);
  const index: number[] = [];
  const parts: { mean: TensorDto; logvar: TensorDto }[] = [];
  for (let n = 0; n < count; n++) {
    const row = items[n]?.index ?? 0;
    const one = {
      data: latents.data.subarray(n * size, (n + 1) * size),
      shape: [1, ...latents.shape.slice(1)],
    };
    const [image] = await pipeline.pixels(one, signal);
    if (image === undefined) continue;
    const flips = Array.from(
      { length: transform.views },
      (_, view) => viewOf(transform, row, view).flip,
    );
    // At most two different pictures, however many views there are.
    const kinds = [...new Set(flips)];
    const posterior = await encodeAll(
      pipeline,
      kinds.map((flip) => (flip ? flipped(image) : image)),
      signal,
    );
    for (const flip of flips) {
      index.push(row);
      const place = kinds.indexOf(flip);
      parts.push({ mean: rowOf(posterior.mean, place), logvar: rowOf(posterior.logvar, place) });
    }
  }
  return {
    index,
    mean: concatRows(parts.map((part) => part.mean)),
    logvar: concatRows(parts.map((part) => part.logvar)),
  };
}

async function encodeAll(
  pipeline: LoadedPipeline,
  images: RgbImage[],
  signal: AbortSignal,
): Promise<{ mean: TensorDto; logvar: TensorDto }> {
  const parts: { mean: TensorDto; logvar: TensorDto }[] = [];
  const { height, width } = images[0] ?? { height: 0, width: 0 };
  for (const { from, to } of batchesOf(images.length, vaeBatchSize(height, width)))
    parts.push(await pipeline.encodeImages(images.slice(from, to), signal));
  return {
    mean: concatRows(parts.map((part) => part.mean)),
    logvar: concatRows(parts.map((part) => part.logvar)),
  };
}

function rowOf({ data, shape }: TensorDto, n: number): TensorDto {
  const size = data.length / (shape[0] ?? 1);
  return { data: data.subarray(n * size, (n + 1) * size), shape: [1, ...shape.slice(1)] };
}
