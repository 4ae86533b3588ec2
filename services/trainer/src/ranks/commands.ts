/** A queue that one reader waits on. */
export class Commands<T> {
  readonly #waiting: T[] = [];
  #ended = false;
  #wake: () => void = () => undefined;

  push(command: T): void {
    this.#waiting.push(command);
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** What is pushed, in order, until the queue ends or the signal aborts. */
  async *until(signal: AbortSignal): AsyncGenerator<T> {
    const onAbort = (): void => this.end();
    if (signal.aborted) return;
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      while (!this.#ended) {
        const next = this.#waiting.shift();
        if (next === undefined) await new Promise<void>((resolve) => (this.#wake = resolve));
        else yield next;
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }
}
