/**
 * Encoded shards that other runs can use: named by everything that their bytes follow from (the images' bytes, captions,
 * transform, encoders, arithmetic), so what has changed is encoded again and what has not is not.
 */
import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { ensureError, isCode, sha256File, type ArtifactStore } from '@spindle/kit';
import type { ImageReader, ImageRef, ManifestRow } from '@spindle/data';
import { modelPath, type EngineInfoDto } from '@spindle/native';
import { EncodeResultSchema, type EncodeResult } from '@spindle/proto';
import { ahead } from './ahead.js';

/** Parts of a pipeline folder that encoding depends on. */
const encoders = ['vae', 'text_encoder', 'text_encoder_2', 'tokenizer', 'tokenizer_2'];
/** Raised when the layout or the arithmetic of shards changes. */
const version = 1;
/** Images that are read at the same time. */
const together = 8;

export class EncodeCache {
  readonly #digests = new Map<string, string>();

  constructor(
    readonly store: ArtifactStore,
    readonly images: ImageReader,
    readonly engine: EngineInfoDto,
  ) {}

  /** Name of the shard of these rows; null when an image cannot be read or the pipeline is not there: whoever encodes says why. */
  async key(rows: readonly ManifestRow[], pipeline: string, settings: object, signal: AbortSignal): Promise<string | null> {
    const hash = createHash('sha256');
    const add = (value: object): void =>
      void hash.update(`${JSON.stringify(value, (_key, v: unknown) => (typeof v === 'bigint' ? String(v) : v))}\n`);
    const models = await this.#encoderDigests(pipeline);
    if (models.length === 0) return null;
    const { backend, isa, version: engine } = this.engine;
    const { variant } = modelPath(pipeline);
    add({ version, backend, isa, engine, models, settings, variant });
    try {
      const facts = ahead(rows, together, async ({ index, text, image, rejected }) => ({
        index,
        text,
        image: await this.#imageDigest(image, signal),
        rejected: rejected && (await this.#imageDigest(rejected, signal)),
      }));
      for await (const fact of facts) add(fact);
    } catch (error) {
      if (ensureError(error).code === 'INVALID_ARGUMENT') return null;
      throw error;
    }
    const hex = hash.digest('hex');
    return `cache/encode/${hex.slice(0, 2)}/${hex}`;
  }

  /** The result under `key`, its shard verified; one whose shard is damaged or gone is forgotten. */
  async find(key: string): Promise<EncodeResult | null> {
    const json = await this.store.getResult(key);
    if (json === null) return null;
    try {
      const result = fromJsonString(EncodeResultSchema, json, { ignoreUnknownFields: true });
      if (result.shard === undefined) return null;
      await this.store.localPath(result.shard);
      return result;
    } catch (thrown) {
      const { code } = ensureError(thrown);
      // What does not parse throws a plain Error.
      if (code !== 'DATA_LOSS' && code !== 'NOT_FOUND' && code !== 'INTERNAL') throw thrown;
      await this.store.deleteResults(key);
      return null;
    }
  }

  /** Rows that were rejected keep a result out: their files may be mended. */
  async keep(key: string, result: EncodeResult): Promise<void> {
    if (result.rejected.length === 0) await this.store.commitResult(key, toJsonString(EncodeResultSchema, result));
  }

  async #imageDigest(ref: ImageRef, signal: AbortSignal): Promise<string> {
    return createHash('sha256')
      .update(await this.images.read(ref, signal))
      .digest('hex');
  }

  async #encoderDigests(pipeline: string): Promise<[string, string][]> {
    const digests: [string, string][] = [];
    for (const part of encoders) {
      const folder = join(modelPath(pipeline).directory, part);
      const names = await readdir(folder).catch((error: unknown) => {
        if (isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR')) return [];
        throw error;
      });
      for (const name of names.sort()) {
        const file = join(folder, name);
        const info = await stat(file, { bigint: true });
        if (!info.isFile()) continue;
        const identity = `${file} ${info.size} ${info.mtimeNs} ${info.ino}`;
        const digest = this.#digests.get(identity) ?? (await sha256File(file));
        this.#digests.set(identity, digest);
        digests.push([`${part}/${name}`, digest]);
      }
    }
    return digests;
  }
}
