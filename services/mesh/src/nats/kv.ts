import { Empty, StringCodec, type KV, type KvEntry } from 'nats';
import { SpindleError, delay } from '@spindle/kit';
import { apiErrors, isApiError, natsError, orRebuilt } from './errors.js';

export interface KvRecord {
  value: string;
  revision: number;
}

/** Keys are letters, digits, "-", "_", "/", "=" and ".". Revisions only grow. */
export interface KvStore {
  get(key: string): Promise<KvRecord | null>;
  /** ALREADY_EXISTS when the key has a value. */
  create(key: string, value: string): Promise<number>;
  /** Compare and set: ABORTED when the key's revision is another one. */
  update(key: string, value: string, revision: number): Promise<number>;
  put(key: string, value: string): Promise<number>;
  delete(key: string): Promise<void>;
  keys(): Promise<string[]>;
  /**
   * The present value first, if there is one, then every change until the signal aborts; ">"
   * watches every key.
   */
  watch(
    key: string,
    signal: AbortSignal,
  ): AsyncIterable<{ key: string; value: string | null; revision: number }>;
}

const text = StringCodec();

export class NatsKv implements KvStore {
  readonly #bucket: string;
  readonly #open: () => Promise<KV>;
  readonly #rebuild: () => Promise<void>;

  /** `rebuild` makes the buckets of a server that has lost its data. */
  constructor(bucket: string, open: () => Promise<KV>, rebuild: () => Promise<void>) {
    this.#bucket = bucket;
    this.#open = open;
    this.#rebuild = rebuild;
  }

  async get(key: string): Promise<KvRecord | null> {
    const entry = await this.#run(`reading ${key}`, (kv) => kv.get(key));
    return entry?.operation === 'PUT'
      ? { value: text.decode(entry.value), revision: entry.revision }
      : null;
  }

  async create(key: string, value: string): Promise<number> {
    return this.#run(`creating ${key}`, async (kv) => {
      try {
        return await kv.create(key, text.encode(value));
      } catch (error) {
        if (!isApiError(error, apiErrors.wrongLastSequence)) throw error;
        throw new SpindleError('ALREADY_EXISTS', `${this.#bucket}: the key "${key}" exists`, {
          cause: error,
        });
      }
    });
  }

  async update(key: string, value: string, revision: number): Promise<number> {
    return this.#run(`updating ${key}`, async (kv) => {
      try {
        return await kv.update(key, text.encode(value), revision);
      } catch (error) {
        if (!isApiError(error, apiErrors.wrongLastSequence)) throw error;
        throw new SpindleError(
          'ABORTED',
          `${this.#bucket}: the key "${key}" was changed after revision ${revision}`,
          { cause: error },
        );
      }
    });
  }

  async put(key: string, value: string): Promise<number> {
    return this.#run(`writing ${key}`, (kv) => kv.put(key, text.encode(value)));
  }

  async delete(key: string): Promise<void> {
    await this.#run(`deleting ${key}`, (kv) => kv.delete(key));
  }

  async keys(): Promise<string[]> {
    return this.#run('listing keys', async (kv) => {
      const found: string[] = [];
      for await (const key of await kv.keys()) found.push(key);
      return found.sort();
    });
  }

  async *watch(
    key: string,
    signal: AbortSignal,
  ): AsyncIterable<{ key: string; value: string | null; revision: number }> {
    let last = 0;
    while (!signal.aborted) {
      let entries: Awaited<ReturnType<KV['watch']>>;
      try {
        entries = await (await this.#open()).watch({ key });
      } catch (error) {
        if (natsError(error, '').code !== 'UNAVAILABLE')
          throw natsError(error, `${this.#bucket}: watching ${key}`);
        await delay(500, signal).catch(() => undefined);
        continue;
      }
      const stop = (): void => entries.stop();
      signal.addEventListener('abort', stop, { once: true });
      try {
        for await (const entry of entries) {
          if (signal.aborted) return;
          // A watch that had to be opened again begins with what was seen already.
          if (key !== '>' && entry.revision <= last) continue;
          last = entry.revision;
          yield { key: entry.key, value: valueOf(entry), revision: entry.revision };
        }
      } finally {
        signal.removeEventListener('abort', stop);
        entries.stop();
      }
    }
  }

  async #run<T>(doing: string, fn: (kv: KV) => Promise<T>): Promise<T> {
    try {
      return await orRebuilt(async () => fn(await this.#open()), this.#rebuild);
    } catch (error) {
      throw natsError(error, `${this.#bucket}: ${doing}`);
    }
  }
}

function valueOf(entry: KvEntry): string | null {
  return entry.operation === 'PUT' && entry.value !== Empty ? text.decode(entry.value) : null;
}
