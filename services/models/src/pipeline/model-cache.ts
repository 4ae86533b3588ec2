interface Entry<V> {
  value: Promise<V>;
  users: number;
  evicted: boolean;
}

/**
 * Keeps the values used last, and frees the others: at once, or when their last user is done. A
 * value that is being loaded is loaded once however many ask for it; one that failed to load is
 * forgotten.
 */
export class ModelCache<V extends { release(): void }> {
  readonly #entries = new Map<string, Entry<V>>();

  constructor(readonly capacity: number) {}

  async use<T>(key: string, load: () => Promise<V>, work: (value: V) => Promise<T>): Promise<T> {
    const entry = this.#take(key, load);
    entry.users++;
    try {
      return await work(await entry.value);
    } finally {
      entry.users--;
      this.#freeIfDone(entry);
    }
  }

  keys(): string[] {
    return [...this.#entries.keys()];
  }

  clear(): void {
    for (const key of this.keys()) this.#evict(key);
  }

  #take(key: string, load: () => Promise<V>): Entry<V> {
    const known = this.#entries.get(key);
    if (known !== undefined) {
      // Map order is age: the newest goes to the end.
      this.#entries.delete(key);
      this.#entries.set(key, known);
      return known;
    }
    // Room is made first, so that two large models never lie in memory at once for want of order.
    while (this.#entries.size >= this.capacity) this.#evict(this.keys()[0] ?? '');
    const entry: Entry<V> = { value: load(), users: 0, evicted: false };
    this.#entries.set(key, entry);
    entry.value.catch(() => {
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
    });
    return entry;
  }

  #evict(key: string): void {
    const entry = this.#entries.get(key);
    this.#entries.delete(key);
    if (entry === undefined) return;
    entry.evicted = true;
    this.#freeIfDone(entry);
  }

  #freeIfDone(entry: Entry<V>): void {
    if (!entry.evicted || entry.users > 0) return;
    // A value that failed to load has nothing to free.
    entry.value.then((value) => value.release()).catch(() => undefined);
  }
}
