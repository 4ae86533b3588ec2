import { create } from '@bufbuild/protobuf';
import { ArtifactRefSchema, type ArtifactRef } from '@spindle/proto';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, readFileSync, statSync } from 'node:fs';
import { mkdtemp, open, readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  SpindleError,
  createFileAtomic,
  ensureError,
  isCode,
  makeDirectory,
  sealed,
  sha256File,
  sweepTemporaries,
  syncDirectory,
  temporaryName,
  unsealed,
  writeTemporary,
} from '@spindle/kit';
import { digestHex, keyPath } from './keys.js';
import type { ArtifactStore } from './store.js';

/** A file up to this size is read faster than it is handed to another thread. */
const smallBytes = 64 << 10;

/** Opens (and creates) the store below `<root>/store`. */
export async function openLocalStore(root: string): Promise<ArtifactStore> {
  const store = new LocalStore(resolve(root, 'store'));
  await store.prepare();
  return store;
}

class LocalStore implements ArtifactStore {
  readonly remote = false;
  readonly #blobs: string;
  readonly #results: string;
  readonly #checkpoints: string;
  readonly #temporary: string;
  readonly #damaged: string;
  /** Path -> identity of the file whose digest was checked. */
  readonly #verified = new Map<string, string>();

  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
    this.#blobs = join(folder, 'sha256');
    this.#results = join(folder, 'results');
    this.#checkpoints = join(folder, 'checkpoints');
    this.#temporary = join(folder, 'tmp');
    this.#damaged = join(folder, 'damaged');
  }

  async prepare(): Promise<void> {
    for (const folder of [this.#blobs, this.#results, this.#checkpoints, this.#temporary])
      await makeDirectory(folder);
    await sweepTemporaries(this.#temporary, { depth: 'one' });
  }

  async put(data: Uint8Array, mediaType: string): Promise<ArtifactRef> {
    const hex = createHash('sha256').update(data).digest('hex');
    if (!(await this.#present(hex, data.byteLength))) {
      await this.#adopt(await writeTemporary(this.#temporary, data), hex);
    }
    return reference(hex, data.byteLength, mediaType);
  }

  async putFile(
    path: string,
    mediaType: string,
    options: { move?: boolean } = {},
  ): Promise<ArtifactRef> {
    if (options.move) {
      const hex = await sha256File(path);
      const bytes = await syncFile(path);
      if (await this.#present(hex, bytes)) {
        await rm(path);
        return reference(hex, bytes, mediaType);
      }
      try {
        await this.#adopt(path, hex);
        return reference(hex, bytes, mediaType);
      } catch (error) {
        if (!isCode(error, 'EXDEV')) throw error;
      }
    }
    const temporary = temporaryName(this.#temporary);
    try {
      // Hashed while it is copied, so a source that changes meanwhile cannot end up under a wrong
      // name.
      const { hex, bytes } = await copyHashed(path, temporary);
      if (await this.#present(hex, bytes)) await rm(temporary);
      else await this.#adopt(temporary, hex);
      if (options.move) await rm(path);
      return reference(hex, bytes, mediaType);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  async get(ref: ArtifactRef): Promise<Buffer> {
    const hex = digestHex(ref);
    const path = this.#blobPath(hex);
    let data: Buffer;
    try {
      data = await readFile(path);
    } catch (error) {
      throw this.#unreadable(ref, error);
    }
    if (createHash('sha256').update(data).digest('hex') !== hex)
      throw await this.#setAside(ref, path);
    return data;
  }

  async localPath(ref: ArtifactRef): Promise<string> {
    const hex = digestHex(ref);
    const path = this.#blobPath(hex);
    try {
      const { mtimeNs, size, ino } = await stat(path, { bigint: true });
      const identity = `${mtimeNs}:${size}:${ino}`;
      if (this.#verified.get(path) === identity) return path;
      if ((await sha256File(path)) === hex) {
        this.#verified.set(path, identity);
        return path;
      }
    } catch (error) {
      throw this.#unreadable(ref, error);
    }
    throw await this.#setAside(ref, path);
  }

  async has(ref: ArtifactRef): Promise<boolean> {
    try {
      return (await stat(this.#blobPath(digestHex(ref)))).size === Number(ref.bytes);
    } catch (error) {
      if (isCode(error, 'ENOENT')) return false;
      throw error;
    }
  }

  async deleteBlob(ref: ArtifactRef): Promise<void> {
    const path = this.#blobPath(digestHex(ref));
    this.#verified.delete(path);
    await rm(path, { force: true });
  }

  async commitResult(key: string, json: string): Promise<'committed' | 'exists'> {
    const created = await createFileAtomic(
      `${keyPath(this.#results, key)}.json`,
      sealed(json),
      this.#temporary,
    );
    return created ? 'committed' : 'exists';
  }

  async getResult(key: string): Promise<string | null> {
    const path = `${keyPath(this.#results, key)}.json`;
    // Asked for before every job, when there is mostly none; a call that fails costs more.
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined) return null;
    try {
      const text =
        found.size <= smallBytes ? readFileSync(path, 'utf8') : await readFile(path, 'utf8');
      return unsealed(text, path);
    } catch (error) {
      if (isCode(error, 'ENOENT')) return null;
      if (ensureError(error).code !== 'DATA_LOSS') throw error;
    }
    await makeDirectory(this.#damaged);
    const aside = join(this.#damaged, `${key.replaceAll('/', '.')}.${Date.now()}.json`);
    await rename(path, aside).catch((error: unknown) => {
      // Another reader was first.
      if (!isCode(error, 'ENOENT')) throw error;
    });
    return null;
  }

  async listResults(prefix: string): Promise<string[]> {
    const path = keyPath(this.#results, withoutSlash(prefix));
    const files = await filesBelow(path);
    if ((await this.getResult(withoutSlash(prefix))) !== null) files.push(`${path}.json`);
    return files
      .filter((file) => file.endsWith('.json'))
      .map((file) => relative(this.#results, file).slice(0, -'.json'.length).split(sep).join('/'))
      .sort();
  }

  async deleteResults(prefix: string): Promise<void> {
    const path = keyPath(this.#results, withoutSlash(prefix));
    await rm(`${path}.json`, { force: true });
    await rm(path, { recursive: true, force: true });
    try {
      await syncDirectory(dirname(path));
    } catch (error) {
      if (!isCode(error, 'ENOENT')) throw error;
    }
  }

  async checkpointDir(key: string): Promise<string> {
    const path = keyPath(this.#checkpoints, key);
    await makeDirectory(path);
    return path;
  }

  async deleteCheckpoints(prefix: string): Promise<void> {
    await rm(keyPath(this.#checkpoints, prefix), { recursive: true, force: true });
  }

  checkpointMirror(): null {
    return null;
  }

  async tempDir(): Promise<string> {
    return mkdtemp(join(this.#temporary, `.${process.pid}.`));
  }

  #blobPath(hex: string): string {
    return join(this.#blobs, hex.slice(0, 2), hex);
  }

  /** Is the blob there already? A torn one (its size differs) is overwritten by adopt. */
  async #present(hex: string, bytes: number): Promise<boolean> {
    const path = this.#blobPath(hex);
    try {
      if ((await stat(path)).size !== bytes) return false;
    } catch (error) {
      if (isCode(error, 'ENOENT')) return false;
      throw error;
    }
    // Another process may have renamed it and not reached its fsync yet; the caller will rely on
    // it.
    await syncDirectory(dirname(path));
    return true;
  }

  /** Gives a durable file its place. */
  async #adopt(file: string, hex: string): Promise<void> {
    const path = this.#blobPath(hex);
    await makeDirectory(dirname(path));
    await rename(file, path);
    await syncDirectory(dirname(path));
  }

  #unreadable(ref: ArtifactRef, error: unknown): unknown {
    if (!isCode(error, 'ENOENT')) return error;
    return new SpindleError(
      'NOT_FOUND',
      `artifact ${ref.digest} is not in the store ${this.#folder}`,
      { cause: error },
    );
  }

  async #setAside(ref: ArtifactRef, path: string): Promise<SpindleError> {
    await makeDirectory(this.#damaged);
    const aside = join(this.#damaged, `${digestHex(ref)}.${Date.now()}`);
    await rename(path, aside);
    return new SpindleError(
      'DATA_LOSS',
      `artifact ${ref.digest}: the stored bytes have another digest; the blob was moved to ` +
        aside,
    );
  }
}

function reference(hex: string, bytes: number, mediaType: string): ArtifactRef {
  return create(ArtifactRefSchema, { digest: `sha256:${hex}`, bytes: BigInt(bytes), mediaType });
}

function withoutSlash(prefix: string): string {
  return prefix.endsWith('/') ? prefix.slice(0, -1) : prefix;
}

async function syncFile(path: string): Promise<number> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
    return (await handle.stat()).size;
  } finally {
    await handle.close();
  }
}

async function copyHashed(from: string, to: string): Promise<{ hex: string; bytes: number }> {
  const hash = createHash('sha256');
  const tap = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
  });
  await pipeline(
    createReadStream(from, { highWaterMark: 1 << 20 }),
    tap,
    createWriteStream(to, { flags: 'wx' }),
  );
  return { bytes: await syncFile(to), hex: hash.digest('hex') };
}

async function filesBelow(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
  } catch (error) {
    if (isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR')) return [];
    throw error;
  }
}
