/** The real images' latents, which drawing may start from, as encode jobs left them. */
import { SpindleError } from '@spindle/kit';
import type { ArtifactStore } from '@spindle/mesh';
import type { TensorDto } from '@spindle/native';
import type { ArtifactRef, PromptItem } from '@spindle/proto';
import { Pack } from './pack.js';
import { concatenated, type Latents } from './shard.js';

/** Of the items' rows, by row: the mean of the posterior. */
export async function realLatents(
  shards: readonly ArtifactRef[],
  items: readonly PromptItem[],
  store: ArtifactStore,
): Promise<Map<number, Latents>> {
  const rows = new Set(items.map(({ index }) => index));
  const found = new Map<number, Latents>();
  for (const ref of shards) {
    const pack = await Pack.open(await store.localPath(ref));
    for (const [row, latents] of await pack.means(rows)) found.set(row, latents);
  }
  return found;
}

/** One tensor (N, C, h, w) of the items' latents, each of `shape` (C, h, w). */
export function realOf(
  items: readonly PromptItem[],
  latents: ReadonlyMap<number, Latents>,
  shape: readonly number[],
): TensorDto {
  const rows = items.map(({ index }) => {
    const row = latents.get(index);
    if (row?.shape.join(', ') !== shape.join(', '))
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `encoded_shards: row ${index}: expected latents [${shape.join(', ')}], got ` +
          (row ? `[${row.shape.join(', ')}]` : 'nothing'),
      );
    return row.data;
  });
  return { data: concatenated(rows), shape: [items.length, ...shape] };
}
