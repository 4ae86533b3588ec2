/**
 * Rows that some run has encoded before, so that a change in one row of a shard encodes that row
 * alone. A row's images and its caption are found by what their latents and embeddings follow from.
 * The shards themselves hold the values; every shard has one index of its rows' keys beside it, so
 * there are no more files than twice the shards. A pack that is damaged or gone is forgotten.
 */
import { create } from '@bufbuild/protobuf';
import { ensureError } from '@spindle/kit';
import { digestHex, type ArtifactStore } from '@spindle/mesh';
import { ArtifactRefSchema, type ArtifactRef } from '@spindle/proto';
import { prefetch } from './prefetch.js';
import type { EncodedImage, EncodedText } from './encode-rows.js';
import { Pack } from './pack.js';
import type { IndexedRow } from './row-index.js';

interface Index {
  shard: { digest: string; bytes: number; mediaType: string };
  rows: IndexedRow[];
}

interface Opened {
  ref: ArtifactRef;
  rows: readonly IndexedRow[];
  pack: Pack;
}

const prefix = 'cache/rows';
/** Keys in memory, of some 100 bytes each; rows beyond that are encoded again. */
const mostKeys = 4_000_000;
/** Rows of a shard are counted below this. */
const mostRows = 1 << 20;
/**
 * Packs whose headers are in memory: rows that have moved lie in two neighbouring ones, shuffled
 * ones in many.
 */
const packsKept = 256;
const together = 16;

export class RowCache {
  /** Names of the indexes that were read, by number; null: forgotten. */
  readonly #names: (string | null)[] = [];
  readonly #known = new Set<string>();
  /** Pack's number · mostRows + row, by key. */
  readonly #images = new Map<string, number>();
  readonly #texts = new Map<string, number>();
  /** The newest ones last. */
  readonly #packs = new Map<number, Promise<Opened | null>>();
  #run: string | undefined;
  #loading: Promise<void> | undefined;

  constructor(readonly store: ArtifactStore) {}

  /** Looks for what other processes have kept, once per run. */
  async refresh(run: string): Promise<void> {
    if (run !== this.#run || this.#loading === undefined) {
      this.#run = run;
      this.#loading = this.#load();
      this.#loading.catch(() => (this.#loading = undefined));
    }
    await this.#loading;
  }

  /** `timeIds`: they are needed. */
  async image(key: string, timeIds: boolean): Promise<EncodedImage | null> {
    return this.#find(this.#images.get(key), (pack, row) => pack.image(row, timeIds));
  }

  async text(key: string, pooled: boolean): Promise<EncodedText | null> {
    return this.#find(this.#texts.get(key), (pack, row) => pack.text(row, pooled));
  }

  async keep(shard: ArtifactRef, rows: IndexedRow[]): Promise<void> {
    if (rows.length === 0 || rows.length >= mostRows) return;
    const { digest, bytes, mediaType } = shard;
    const index: Index = { shard: { digest, bytes: Number(bytes), mediaType }, rows };
    // Later runs read it; this one does not come back to its rows.
    await this.store.commitResult(nameOf(shard), JSON.stringify(index));
  }

  async #load(): Promise<void> {
    const names = (await this.store.listResults(prefix)).filter((name) => !this.#known.has(name));
    const read = prefetch(names, together, async (name) => ({
      name,
      json: await this.store.getResult(name),
    }));
    for await (const { name, json } of read) {
      const index = json === null ? null : parseIndex(json);
      if (index === null) await this.store.deleteResults(name);
      else this.#add(name, index);
      if (this.#images.size + this.#texts.size > mostKeys) return;
    }
  }

  #add(name: string, { rows }: Index): void {
    const number = this.#names.push(name) - 1;
    this.#known.add(name);
    rows.forEach(({ image, text }, row) => {
      this.#images.set(image, number * mostRows + row);
      this.#texts.set(text, number * mostRows + row);
    });
  }

  async #find<T>(
    place: number | undefined,
    read: (pack: Pack, row: IndexedRow) => Promise<T | null>,
  ): Promise<T | null> {
    if (place === undefined) return null;
    const number = Math.floor(place / mostRows);
    const opened = await this.#pack(number);
    const row = opened?.rows[place % mostRows];
    if (opened === null || row === undefined) return null;
    try {
      // Looks at the file again: it may have been damaged, or gone, since.
      await this.store.localPath(opened.ref);
      return await read(opened.pack, row);
    } catch (thrown) {
      if (!isLoss(thrown)) throw thrown;
      return this.#forget(number);
    }
  }

  #pack(number: number): Promise<Opened | null> {
    const pack = this.#packs.get(number) ?? this.#open(number);
    this.#packs.delete(number);
    this.#packs.set(number, pack);
    pack.catch(() => this.#packs.delete(number));
    for (const oldest of this.#packs.keys()) {
      if (this.#packs.size <= packsKept) break;
      this.#packs.delete(oldest);
    }
    return pack;
  }

  async #open(number: number): Promise<Opened | null> {
    const name = this.#names[number] ?? null;
    if (name === null) return null;
    const index = parseIndex((await this.store.getResult(name)) ?? '');
    if (index === null) return this.#forget(number);
    const ref = create(ArtifactRefSchema, { ...index.shard, bytes: BigInt(index.shard.bytes) });
    try {
      return { ref, rows: index.rows, pack: await Pack.open(await this.store.localPath(ref)) };
    } catch (thrown) {
      if (!isLoss(thrown)) throw thrown;
      return this.#forget(number);
    }
  }

  async #forget(number: number): Promise<null> {
    const name = this.#names[number] ?? null;
    this.#names[number] = null;
    this.#packs.delete(number);
    if (name !== null) {
      this.#known.delete(name);
      await this.store.deleteResults(name);
    }
    return null;
  }
}

/** A pack is damaged, gone, or not what its index says. */
function isLoss(thrown: unknown): boolean {
  const { code } = ensureError(thrown);
  return code === 'DATA_LOSS' || code === 'NOT_FOUND';
}

/** Null for what is no index. */
function parseIndex(json: string): Index | null {
  try {
    const { shard, rows } = JSON.parse(json) as Partial<Index>;
    return shard === undefined || !Array.isArray(rows) ? null : { shard, rows };
  } catch {
    return null;
  }
}

function nameOf(shard: ArtifactRef): string {
  const hex = digestHex(shard);
  return `${prefix}/${hex.slice(0, 2)}/${hex}`;
}
