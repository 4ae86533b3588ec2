/**
 * Shards of the opponent's images that samplers still draw. They are taken from the results of
 * their jobs, in the order in which training needs them, whatever order they are drawn in.
 */
import { createHash } from 'node:crypto';
import { SpindleError } from '@spindle/kit';
import { readJobResult, type ArtifactStore } from '@spindle/mesh';
import type { ArtifactRef, TrainRequest } from '@spindle/proto';

type Request = Pick<TrainRequest, 'generatedShards' | 'toCome' | 'runCreatedMs'>;

/** The generated shards of a request: those that it names, then those to come. */
export class GeneratedShards {
  readonly #refs: ArtifactRef[];
  readonly #keys: readonly string[];

  constructor(
    readonly request: Request,
    readonly store: Pick<ArtifactStore, 'getResult' | 'deleteResults'>,
  ) {
    this.#refs = [...request.generatedShards];
    this.#keys = request.toCome?.keys ?? [];
  }

  /** How many there are in the end. */
  get count(): number {
    return this.request.generatedShards.length + this.#keys.length;
  }

  /** The first `count` of them; null while one is not drawn. */
  async first(count: number): Promise<readonly ArtifactRef[] | null> {
    while (this.#refs.length < Math.min(count, this.count)) {
      const key = this.nextKey;
      const result = await readJobResult(key, this.store);
      if (result?.runCreatedMs !== this.request.runCreatedMs) return null;
      const latents = result.result.case === 'sample' ? result.result.value.latents : undefined;
      if (latents === undefined) {
        throw new SpindleError(
          'DATA_LOSS',
          `result ${key}: expected latents of a sample job, got none`,
        );
      }
      this.#refs.push(latents);
    }
    return this.#refs.slice(0, count);
  }

  /** Of the job that the first missing shard comes from; empty where none is missing. */
  get nextKey(): string {
    return this.#keys[this.#refs.length - this.request.generatedShards.length] ?? '';
  }
}

/**
 * What a checkpoint's fingerprint says of generated shards: the digest of all, as it has always
 * been, or while some are to come that of the first ones.
 */
export function shardsText(refs: readonly ArtifactRef[], all: number): string {
  const digest = digestOf(refs);
  return refs.length === all ? digest : `first ${refs.length}: ${digest}`;
}

/** As many as a checkpoint's text tells of; undefined where it tells of all. */
export function shardsTold(text: string): number | undefined {
  const count = /^first (\d+): /.exec(text)?.[1];
  return count === undefined ? undefined : Number(count);
}

/** SHA-256 of the shards' digests, in hex. */
export function digestOf(refs: readonly ArtifactRef[]): string {
  return createHash('sha256')
    .update(refs.map((ref) => ref.digest).join('\n'))
    .digest('hex');
}
