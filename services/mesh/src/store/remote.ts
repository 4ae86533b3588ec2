/**
 * The artifact store of a cluster: blobs and results in an S3-compatible store, with a local folder
 * as cache. What is in the object store is the truth; the cache may vanish at any time. Checkpoints
 * are written to the local folder, and copied from there by the trainer.
 */
import { createHash } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { resolve } from 'node:path';
import type { ArtifactRef } from '@spindle/proto';
import {
  ensureError,
  SpindleError,
  ObjectStore,
  parseS3Url,
  sealed,
  unsealed,
  type S3Address,
} from '@spindle/kit';
import { digestHex, keyPath } from './keys.js';
import { openLocalStore } from './local.js';
import type { ArtifactStore, CheckpointMirror } from './store.js';

const chunkBytes = 16 * 1024 * 1024;

/**
 * The store below `<root>/store`, or, with an s3:// URL, that one with `<root>/store` as its cache.
 */
export async function openStore(
  root: string,
  url: string | undefined,
  objects = new ObjectStore(),
): Promise<ArtifactStore> {
  const local = await openLocalStore(root);
  if (url === undefined) return local;
  const { bucket, key } = parseS3Url(url);
  return new RemoteStore(local, objects, bucket, key.replace(/\/+$/, ''), resolve(root));
}

class RemoteStore implements ArtifactStore {
  readonly remote = true;
  readonly #cache: ArtifactStore;
  readonly #objects: ObjectStore;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #root: string;

  constructor(
    cache: ArtifactStore,
    objects: ObjectStore,
    bucket: string,
    prefix: string,
    root: string,
  ) {
    this.#cache = cache;
    this.#objects = objects;
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.#root = root;
  }

  async put(data: Uint8Array, mediaType: string): Promise<ArtifactRef> {
    const ref = await this.#cache.put(data, mediaType);
    if (!(await this.has(ref))) await this.#objects.put(this.#blob(ref), data);
    return ref;
  }

  async putFile(
    path: string,
    mediaType: string,
    options: { move?: boolean } = {},
  ): Promise<ArtifactRef> {
    const ref = await this.#cache.putFile(path, mediaType, options);
    if (!(await this.has(ref)))
      await this.#objects.putFile(this.#blob(ref), await this.#cache.localPath(ref));
    return ref;
  }

  async get(ref: ArtifactRef): Promise<Buffer> {
    try {
      return await this.#cache.get(ref);
    } catch (error) {
      this.#unlessAbsent(error);
    }
    await this.#fetch(ref);
    return this.#cache.get(ref);
  }

  async localPath(ref: ArtifactRef): Promise<string> {
    try {
      return await this.#cache.localPath(ref);
    } catch (error) {
      this.#unlessAbsent(error);
    }
    await this.#fetch(ref);
    return this.#cache.localPath(ref);
  }

  async has(ref: ArtifactRef): Promise<boolean> {
    return (await this.#objects.head(this.#blob(ref))) === Number(ref.bytes);
  }

  async deleteBlob(ref: ArtifactRef): Promise<void> {
    await this.#objects.delete(this.#blob(ref));
    await this.#cache.deleteBlob(ref);
  }

  async commitResult(key: string, json: string): Promise<'committed' | 'exists'> {
    return (await this.#objects.put(this.#result(key), sealed(json), { create: true }))
      ? 'committed'
      : 'exists';
  }

  async getResult(key: string): Promise<string | null> {
    const address = this.#result(key);
    const read = async (): Promise<string | null> => {
      const size = await this.#objects.head(address);
      const bytes = size === null ? null : await this.#objects.read(address, 0, size);
      return bytes?.toString('utf8') ?? null;
    };
    const first = await read();
    const body = first === null ? null : bodyOf(first, key);
    if (first === null || body !== null) return body;
    // It may have been damaged on the way here: only what comes so again is touched.
    const again = await read();
    if (again !== first) return again === null ? null : bodyOf(again, key);
    await this.#objects.put(this.#aside(key.replaceAll('/', '.')), again);
    await this.#objects.delete(address);
    return null;
  }

  async listResults(prefix: string): Promise<string[]> {
    const own = prefix.replace(/\/$/, '');
    const keys: string[] = [];
    for (const ending of ['.json', '/']) {
      const base = this.#result(own).key.slice(0, -'.json'.length);
      for await (const { key } of this.#objects.list({
        bucket: this.#bucket,
        key: `${base}${ending}`,
      }))
        if (key.endsWith('.json'))
          keys.push(key.slice(this.#at('results/').length, -'.json'.length));
    }
    return keys.sort();
  }

  async deleteResults(prefix: string): Promise<void> {
    for (const key of await this.listResults(prefix)) await this.#objects.delete(this.#result(key));
  }

  checkpointDir(key: string): Promise<string> {
    return this.#cache.checkpointDir(key);
  }

  async deleteCheckpoints(prefix: string): Promise<void> {
    await this.#cache.deleteCheckpoints(prefix);
    for await (const { key } of this.#objects.list({
      bucket: this.#bucket,
      key: this.#at(`checkpoints/${prefix}/`),
    }))
      await this.#objects.delete({ bucket: this.#bucket, key });
  }

  checkpointMirror(key: string): CheckpointMirror {
    // Refuses what is no key, as the local store does.
    keyPath(this.#root, key);
    const prefix = this.#at(`checkpoints/${key}/`);
    const address = (name: string): S3Address => ({
      bucket: this.#bucket,
      key: `${prefix}${name}`,
    });
    return {
      list: async () => {
        const names: string[] = [];
        for await (const { key: found } of this.#objects.list({
          bucket: this.#bucket,
          key: prefix,
        }))
          names.push(found.slice(prefix.length));
        return names;
      },
      upload: (name, path) => this.#objects.putFile(address(name), path),
      write: async (name, data) => {
        await this.#objects.put(address(name), data);
      },
      download: async (name, path) => {
        const bytes = await this.#objects.head(address(name));
        return bytes !== null && (await this.#download(address(name), bytes, path)) !== null;
      },
      remove: (name) => this.#objects.delete(address(name)),
    };
  }

  tempDir(): Promise<string> {
    return this.#cache.tempDir();
  }

  /** Into the cache, in pieces, verified. */
  async #fetch(ref: ArtifactRef): Promise<void> {
    const address = this.#blob(ref);
    const size = await this.#objects.head(address);
    if (size === null) throw this.#absent(ref);
    const folder = await this.#cache.tempDir();
    try {
      const path = join(folder, 'blob');
      const hex = await this.#download(address, size, path);
      if (hex === null) throw this.#absent(ref);
      if (hex !== digestHex(ref)) await this.#secondLook(ref, hex, size, path);
      await this.#cache.putFile(path, ref.mediaType, { move: true });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /**
   * What came with another digest may have been damaged on the way: it is downloaded once more, and
   * only what comes the same again is set aside in the store. Whoever puts the blob then finds none
   * of its name and so heals the store.
   */
  async #secondLook(ref: ArtifactRef, first: string, size: number, path: string): Promise<void> {
    const address = this.#blob(ref);
    await rm(path);
    const second = await this.#download(address, size, path);
    if (second === digestHex(ref)) return;
    if (second !== first)
      throw new SpindleError(
        'UNAVAILABLE',
        `artifact ${ref.digest}: two downloads gave different bytes; the way to the store ` +
          'damages them',
      );
    const aside = this.#aside(digestHex(ref));
    await this.#objects.putFile(aside, path);
    await this.#objects.delete(address);
    throw new SpindleError(
      'DATA_LOSS',
      `artifact ${ref.digest}: the stored bytes have another digest; the object was moved to ` +
        `s3://${aside.bucket}/${aside.key}`,
    );
  }

  /**
   * Into a new file, in pieces: its digest in hex; null when the object is not there, or shorter.
   */
  async #download(address: S3Address, bytes: number, path: string): Promise<string | null> {
    const hash = createHash('sha256');
    const file = await open(path, 'wx');
    try {
      for (let offset = 0; offset < bytes; offset += chunkBytes) {
        const piece = await this.#objects.read(
          address,
          offset,
          Math.min(chunkBytes, bytes - offset),
        );
        if (piece === null || piece.length === 0) return null;
        hash.update(piece);
        await file.write(piece, 0, piece.length, offset);
      }
      await file.sync();
    } finally {
      await file.close();
    }
    return hash.digest('hex');
  }

  /** A blob that the cache lacks or has damaged comes from the object store. */
  #unlessAbsent(error: unknown): void {
    const { code } = ensureError(error);
    if (code !== 'NOT_FOUND' && code !== 'DATA_LOSS') throw error;
  }

  #absent(ref: ArtifactRef): SpindleError {
    return new SpindleError(
      'NOT_FOUND',
      `artifact ${ref.digest} is not in the store s3://${this.#bucket}/${this.#prefix}`,
    );
  }

  #at(name: string): string {
    return this.#prefix === '' ? name : `${this.#prefix}/${name}`;
  }

  /** Where what is damaged is kept for people to look at. */
  #aside(name: string): S3Address {
    return { bucket: this.#bucket, key: this.#at(`damaged/${name}.${Date.now()}`) };
  }

  #blob(ref: ArtifactRef): S3Address {
    const hex = digestHex(ref);
    return { bucket: this.#bucket, key: this.#at(`sha256/${hex.slice(0, 2)}/${hex}`) };
  }

  #result(key: string): S3Address {
    // Refuses what is no key, as the local store does.
    keyPath(this.#root, key);
    return { bucket: this.#bucket, key: this.#at(`results/${key}.json`) };
  }
}

/** Null where the seal is broken. */
function bodyOf(text: string, key: string): string | null {
  try {
    return unsealed(text, key);
  } catch {
    return null;
  }
}
