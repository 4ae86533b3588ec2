import { randomUUID } from 'node:crypto';
import { ensureError, SpindleError, delay, linkedAbort, within } from '@spindle/kit';
import type { KvRecord, KvStore } from './kv.js';
import { untilAborted } from './until-aborted.js';

const goodbyeMs = 2_000;
/** A server that is there has answered by then. */
const answerMs = 1_000;

interface Wanted {
  kv: KvStore;
  key: string;
  owner: string;
  ttlMs: number;
  signal: AbortSignal;
}

/**
 * One holder at a time. The holder rewrites the key at a third of the ttl; whoever waits takes over
 * once the key's revision has stood still for the holder's ttl on its own clock, so no two clocks
 * are ever compared. Compare-and-set decides races. A holder that cannot refresh for a ttl aborts
 * `lost` before anyone else can have taken over for long: writes that must not come from two
 * holders also need a compare-and-set of their own.
 */
export class Lease {
  readonly #controller = new AbortController();
  readonly #stopRefreshing = new AbortController();
  readonly #refreshing: Promise<void>;

  readonly #kv: KvStore;
  readonly #key: string;
  readonly #value: string;
  #revision: number;
  /** Nobody gives it back to who lost it. */
  #isTaken = false;
  readonly #ttlMs: number;

  private constructor(kv: KvStore, key: string, value: string, revision: number, ttlMs: number) {
    this.#kv = kv;
    this.#key = key;
    this.#value = value;
    this.#revision = revision;
    this.#ttlMs = ttlMs;
    this.#refreshing = this.#refresh();
  }

  /** Aborts when the lease is no longer ours. */
  get lost(): AbortSignal {
    return this.#controller.signal;
  }

  /**
   * Once the lease is lost: whether someone else has taken the key. Null where nothing tells: the
   * server, which alone could grant it, does not answer, or whoever had the key is gone again.
   */
  async takenByAnother(): Promise<boolean | null> {
    if (this.#isTaken) return true;
    const asked: { held: KvRecord | null } = { held: null };
    const asking = this.#kv.get(this.#key).then((held) => (asked.held = held));
    await within(answerMs, asking).catch(() => undefined);
    if (asked.held === null) return null;
    this.#isTaken = asked.held.value !== this.#value;
    return this.#isTaken;
  }

  /**
   * Waits while someone else holds the key; rejects when the signal aborts. After twice the ttl
   * `onWait` is told once who has it: null where the server has not answered.
   */
  static async acquire(
    kv: KvStore,
    key: string,
    owner: string,
    options: { ttlMs: number; signal: AbortSignal; onWait?: (holder: string | null) => void },
  ): Promise<Lease> {
    const { ttlMs, signal, onWait } = options;
    let holder: string | null = null;
    // A timer of its own: a request to a server that is away may hang for as long as that.
    const waited = setTimeout(() => onWait?.(holder), 2 * ttlMs);
    try {
      return await Lease.#acquire({ kv, key, owner, ttlMs, signal }, (by) => (holder = by));
    } finally {
      clearTimeout(waited);
    }
  }

  static async #acquire(
    { kv, key, owner, ttlMs, signal }: Wanted,
    heldBy: (holder: string | null) => void,
  ): Promise<Lease> {
    // Unique, so that two holders of one owner's name are still two.
    const value = JSON.stringify({ owner, ttlMs, id: randomUUID() });
    const pollMs = Math.min(500, Math.max(20, ttlMs / 10));
    let seen = { revision: 0, since: 0 };
    for (let first = true; ; first = false) {
      if (!first) await delay(pollMs, signal);
      try {
        const held = await untilAborted(kv.get(key), signal);
        heldBy(held && holderOf(held.value));
        if (!held) return new Lease(kv, key, value, await kv.create(key, value), ttlMs);
        const now = performance.now();
        if (held.revision !== seen.revision) seen = { revision: held.revision, since: now };
        if (now - seen.since < holderTtl(held.value, ttlMs)) continue;
        return new Lease(kv, key, value, await kv.update(key, value, held.revision), ttlMs);
      } catch (error) {
        // Lost a race, or the server is away: both are reasons to keep waiting.
        const { code } = ensureError(error);
        if (code === 'UNAVAILABLE') heldBy(null);
        if (code !== 'ALREADY_EXISTS' && code !== 'ABORTED' && code !== 'UNAVAILABLE') throw error;
      }
    }
  }

  /** Lets the next one in at once, or, where the server is away, after the ttl. */
  async release(): Promise<void> {
    await within(goodbyeMs, this.#release());
  }

  async #release(): Promise<void> {
    this.#stopRefreshing.abort();
    await this.#refreshing;
    if (this.#controller.signal.aborted) return;
    this.#controller.abort(new SpindleError('CANCELLED', `the lease "${this.#key}" was released`));
    const held = await this.#kv.get(this.#key);
    if (held?.revision === this.#revision) await this.#kv.delete(this.#key);
  }

  async #refresh(): Promise<void> {
    let renewed = performance.now();
    const { signal } = this.#stopRefreshing;
    for (;;) {
      try {
        await delay(this.#ttlMs / 3, signal);
      } catch {
        return;
      }
      const began = performance.now();
      try {
        this.#revision = await beforeTtl(
          this.#kv.update(this.#key, this.#value, this.#revision),
          renewed + this.#ttlMs - began,
        );
        renewed = began;
      } catch (error) {
        const failure = ensureError(error);
        // A refresh whose answer was lost moved the revision itself; reading it back tells.
        const held =
          failure.code === 'ABORTED' ? await this.#kv.get(this.#key).catch(() => null) : null;
        if (held?.value === this.#value) this.#revision = held.revision;
        else if (failure.code === 'ABORTED' || performance.now() - renewed >= this.#ttlMs) {
          this.#controller.abort(
            new SpindleError('ABORTED', `the lease "${this.#key}" was lost: ${failure.message}`, {
              cause: error,
            }),
          );
          return;
        }
      }
    }
  }
}

/**
 * Rejects when the answer does not come in time: a connection that is away must not keep us
 * believing that we hold the lease.
 */
async function beforeTtl<T>(answer: Promise<T>, ms: number): Promise<T> {
  const timer = linkedAbort();
  const expiry = delay(Math.max(0, ms), timer.signal).then(() => {
    throw new SpindleError('UNAVAILABLE', 'it could not be refreshed in time');
  });
  expiry.catch(() => undefined);
  try {
    return await Promise.race([answer, expiry]);
  } finally {
    timer.abort();
    answer.catch(() => undefined);
  }
}

function holderOf(value: string): string {
  try {
    const parsed: unknown = JSON.parse(value);
    if (
      typeof parsed === 'object' &&
      parsed !== null &&
      'owner' in parsed &&
      typeof parsed.owner === 'string'
    )
      return parsed.owner;
  } catch {
    // Not written by a lease.
  }
  return 'somebody';
}

function holderTtl(value: string, fallback: number): number {
  try {
    const parsed: unknown = JSON.parse(value);
    if (
      typeof parsed === 'object' &&
      parsed !== null &&
      'ttlMs' in parsed &&
      typeof parsed.ttlMs === 'number'
    )
      return parsed.ttlMs;
  } catch {
    // Not written by a lease: our own ttl is the best guess.
  }
  return fallback;
}
