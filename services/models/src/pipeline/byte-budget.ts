/** Work that takes memory, as much at a time as there is room for. */
import { ensureError } from '@spindle/kit';

interface Waiting {
  bytes: number;
  begin(): void;
}

/** Bytes that pieces of work share; whoever asks first begins first. */
export class ByteBudget {
  #used = 0;
  readonly #waiting: Waiting[] = [];

  constructor(readonly total: number) {}

  /** `work` once there are `bytes` for it; what is larger than the budget waits to be alone. */
  async use<T>(bytes: number, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    await this.#acquire(bytes, signal);
    try {
      return await work();
    } finally {
      this.#used -= bytes;
      this.#beginNext();
    }
  }

  #acquire(bytes: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const give = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(entry), 1);
        reject(ensureError(signal.reason));
        this.#beginNext();
      };
      const entry: Waiting = {
        bytes,
        begin: () => {
          signal.removeEventListener('abort', give);
          resolve();
        },
      };
      this.#waiting.push(entry);
      if (signal.aborted) return give();
      signal.addEventListener('abort', give, { once: true });
      this.#beginNext();
    });
  }

  #beginNext(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (this.#used > 0 && this.#used + next.bytes > this.total) return;
      this.#waiting.shift();
      this.#used += next.bytes;
      next.begin();
    }
  }
}
