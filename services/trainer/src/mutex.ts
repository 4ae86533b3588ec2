/** A mutex that is fair: whoever asks first gets it first. */
import { ensureError } from '@spindle/kit';

export class FifoMutex {
  #last: Promise<void> = Promise.resolve();

  /** Resolves with the function that releases it. Whoever stops waiting lets the next one pass. */
  async acquire(signal: AbortSignal): Promise<() => void> {
    const before = this.#last;
    let release = (): void => undefined;
    const mine = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#last = before.then(() => mine);
    try {
      await Promise.race([before, aborted(signal)]);
    } catch (error) {
      release();
      throw error;
    }
    return release;
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const fail = (): void => reject(ensureError(signal.reason));
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}
