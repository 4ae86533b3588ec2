/**
 * Names of encoded shards, and of single rows in them, that other runs can use: made of everything
 * that their bytes follow from (the images' bytes, captions, transform, encoders, arithmetic), so
 * what has changed is encoded again and what has not is not.
 */
import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { ensureError, isCode, modelPath, sha256File } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import type { ImageReader, ImageRef, ManifestRow } from '@spindle/data';
import { imageVersion } from '@spindle/models';
import { type EngineInfoDto } from '@spindle/native';
import { EncodeResultSchema, type EncodeResult } from '@spindle/proto';
import { prefetch } from './prefetch.js';
import type { RowKeys } from './row-index.js';

/** Parts of a pipeline folder that encoding depends on. */
const encoders = ['vae', 'text_encoder', 'text_encoder_2', 'tokenizer', 'tokenizer_2'];
/** Raised when the layout or the arithmetic of shards changes. */
const version = 1;
/** Images that are read at the same time. */
const together = 8;

/** A row, and the digests of its images' bytes. */
export interface RowFacts {
  row: ManifestRow;
  image: string;
  rejected: string | undefined;
}

/** What encoders and arithmetic there are; digests of files by their names. */
export interface Encoders {
  arithmetic: { backend: string; isa: string; engine: string };
  models: [string, string][];
  /** Which of a component's files are read. */
  variant: ReturnType<typeof modelPath>['variant'];
}

export class EncodeCache {
  readonly #digests = new Map<string, string>();

  constructor(
    readonly store: ArtifactStore,
    readonly images: ImageReader,
    readonly engine: EngineInfoDto,
  ) {}

  /** Of every row; null for one with an image that cannot be read. */
  async facts(rows: readonly ManifestRow[], signal: AbortSignal): Promise<(RowFacts | null)[]> {
    const facts: (RowFacts | null)[] = [];
    const read = async (row: ManifestRow): Promise<RowFacts | null> => {
      try {
        const rejected = row.rejected && (await this.#imageDigest(row.rejected, signal));
        return { row, image: await this.#imageDigest(row.image, signal), rejected };
      } catch (error) {
        if (ensureError(error).code === 'INVALID_ARGUMENT') return null;
        throw error;
      }
    };
    for await (const fact of prefetch(rows, together, read)) facts.push(fact);
    return facts;
  }

  /** Null when the pipeline is not there: whoever encodes says why. */
  async encoders(pipeline: string): Promise<Encoders | null> {
    const models = await this.#encoderDigests(pipeline);
    const { backend, isa, version: engine } = this.engine;
    return models.length === 0
      ? null
      : { arithmetic: { backend, isa, engine }, models, variant: modelPath(pipeline).variant };
  }

  /** Name of the shard of these rows; null where one of them cannot be read. */
  key(
    facts: readonly (RowFacts | null)[],
    { arithmetic, models, variant }: Encoders,
    settings: object,
  ): string | null {
    const lines: object[] = [{ version, imageVersion, ...arithmetic, models, settings, variant }];
    for (const fact of facts) {
      if (fact === null) return null;
      const { row, image, rejected } = fact;
      lines.push({ index: row.index, text: row.text, image, rejected });
    }
    const hex = digestOf(lines);
    return `cache/encode/${hex.slice(0, 2)}/${hex}`;
  }

  /**
   * Names of a row's latents and of its text embedding: `framing` is how its images are brought to
   * the encoder.
   */
  rowKeys(
    { row, image, rejected }: RowFacts,
    { arithmetic, models, variant }: Encoders,
    precision: string,
    framing: object,
  ): RowKeys {
    const isVae = ([name]: [string, string]): boolean => name.startsWith('vae/');
    const common = { version, ...arithmetic, precision, variant };
    return {
      image: short(
        digestOf([
          { ...common, imageVersion, models: models.filter(isVae), framing, image, rejected },
        ]),
      ),
      text: short(
        digestOf([{ ...common, models: models.filter((model) => !isVae(model)), text: row.text }]),
      ),
    };
  }

  /**
   * The result under `key`, its shard verified; one whose shard is damaged or gone is forgotten.
   */
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
    if (result.rejected.length === 0)
      await this.store.commitResult(key, toJsonString(EncodeResultSchema, result));
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

function digestOf(lines: readonly object[]): string {
  const hash = createHash('sha256');
  for (const line of lines)
    hash.update(
      `${JSON.stringify(line, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value))}\n`,
    );
  return hash.digest('hex');
}

/** 128 bits: there is one name per row, of which an index holds many. */
function short(hex: string): string {
  return Buffer.from(hex.slice(0, 32), 'hex').toString('base64url');
}
