/** [from, to) ranges of at most `size` that cover `count`. */
export function batchesOf(count: number, size: number): { from: number; to: number }[] {
  const batches: { from: number; to: number }[] = [];
  for (let from = 0; from < count; from += size)
    batches.push({ from, to: Math.min(count, from + size) });
  return batches;
}

// One 512-pixel image, or what takes as much memory in smaller ones.
const pixelsPerVaeCall = 512 * 512;
const latentPixelsPerUnetCall = 128 * 128;
const mostPerCall = 64;

/** Images per VAE call; results do not depend on it, memory does. */
export function vaeBatchSize(height: number, width: number): number {
  return Math.max(1, Math.min(mostPerCall, Math.floor(pixelsPerVaeCall / (height * width))));
}

/** Images per U-Net call; results do not depend on it, memory does. */
export function unetBatchSize(latentHeight: number, latentWidth: number): number {
  return Math.max(
    1,
    Math.min(mostPerCall, Math.floor(latentPixelsPerUnetCall / (latentHeight * latentWidth))),
  );
}
