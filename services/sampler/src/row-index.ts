/** How the rows of encoded shards are named, and where they lie. */
import type { EncodedImage } from './encode-rows.js';

/**
 * Names of what a row's latents and text embeddings follow from; as long as a digest needs to be to
 * be met once.
 */
export interface RowKeys {
  image: string;
  text: string;
}

/** Where a row lies in a shard. */
export interface IndexedRow extends RowKeys {
  /** Its views, among the shard's rows; those of its rejected image among the rejected ones. */
  views: number[];
  rejected: number[];
  size: EncodedImage['size'];
  cut: boolean;
}
