/**
 * Aspect-ratio buckets: the sizes that images are brought to when they are not all cut to squares,
 * as in NovelAI's and kohya's trainers. All of them have about the square's area and never more, so
 * none needs more memory than the square does.
 */

/** Pixels. */
export interface ImageSize {
  height: number;
  width: number;
}

/** Which sizes there are beside the square. */
export interface BucketSettings {
  /** Sides are multiples of it. */
  step: number;
  /** Longer side by shorter one, at most. */
  maxRatio: number;
}

/**
 * The square of `resolution` pixels (a multiple of `step`), and for every other width that is a
 * multiple of `step` the largest height with which the area is at most the square's, upright and
 * lying; from the most upright to the widest one.
 */
export function bucketTable(resolution: number, { step, maxRatio }: BucketSettings): ImageSize[] {
  const area = resolution ** 2;
  const sizes: ImageSize[] = [{ height: resolution, width: resolution }];
  for (let short = resolution - step; short >= step; short -= step) {
    const long = Math.floor(area / short / step) * step;
    if (long / short > maxRatio) break;
    sizes.unshift({ height: long, width: short });
    sizes.push({ height: short, width: long });
  }
  return sizes;
}

/**
 * The size with the nearest aspect ratio, by the logarithm of the ratio's ratio: what is cut off is
 * the same share whether an image is too wide or too high. Of two that are equally near, the one
 * that comes first. `sizes` is not empty.
 */
export function nearestSize(sizes: readonly ImageSize[], { height, width }: ImageSize): ImageSize {
  const [first = { height, width }] = sizes;
  let nearest = first;
  let least = Infinity;
  for (const size of sizes) {
    // Ordered as |log| is, without its rounding.
    const [wider, higher] = [width * size.height, height * size.width];
    const distance = Math.max(wider / higher, higher / wider);
    if (distance >= least) continue;
    least = distance;
    nearest = size;
  }
  return nearest;
}

/** "384×640", width first as images are spoken of. */
export function sizeName({ height, width }: ImageSize): string {
  return `${width}×${height}`;
}
