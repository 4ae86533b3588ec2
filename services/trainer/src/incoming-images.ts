/**
 * The opponent's images of a training that has begun while samplers still draw. A step is ready
 * when all images that the order reads up to its end are there. What it reads then is what it would
 * read with all of them there: shards are taken in in their order, and no image that comes later
 * can take the place of one that is there.
 */
import type { ArtifactStore } from '@spindle/mesh';
import { drawnNames, type Dataset } from './dataset.js';
import type { Draw } from './domain/draws.js';
import { imagesNeeded, placesNeeded, type DrawnInOrder } from './domain/images-needed.js';
import { shardsText, type GeneratedShards } from './generated-shards.js';
import { Shard } from './shards.js';

export interface IncomingOptions extends DrawnInOrder {
  /** Images of each shard but the last. */
  perShard: number;
}

export class IncomingImages {
  /** Shards that the data set has. */
  #taken = 0;

  constructor(
    readonly shards: GeneratedShards,
    readonly dataset: Dataset,
    readonly store: Pick<ArtifactStore, 'localPath'>,
    readonly options: IncomingOptions,
  ) {}

  /** Whether all images of a step's draws are there; takes in those that are. */
  async isReady(draws: readonly Draw[]): Promise<boolean> {
    const { dataset, options, shards } = this;
    const positions = Math.max(...draws.map(({ position }) => position)) + 1;
    const images = imagesNeeded(options, dataset.size, positions);
    if (!(await this.#take(Math.ceil(images / options.perShard)))) return false;
    const isThere = (draw: Draw): boolean =>
      dataset.placesOf(draw.element) >= placesNeeded(options, draw);
    // A shard lacks one of its images: what stands in for that one is known when all are there.
    return draws.every(isThere) || this.#take(shards.count);
  }

  /** The job that draws the first shard that is missing; empty where none is. */
  get missing(): string {
    return this.shards.nextKey;
  }

  /** What a checkpoint of now says of the shards. */
  async fingerprint(): Promise<string> {
    return shardsText((await this.shards.first(this.#taken)) ?? [], this.shards.count);
  }

  async #take(count: number): Promise<boolean> {
    const most = Math.min(count, this.shards.count);
    for (; this.#taken < most; this.#taken++) {
      const ref = (await this.shards.first(this.#taken + 1))?.[this.#taken];
      if (ref === undefined) return false;
      const label = `generated_shards[${this.#taken}]`;
      this.dataset.append(await Shard.open(await this.store.localPath(ref), drawnNames, label));
    }
    return true;
  }
}
