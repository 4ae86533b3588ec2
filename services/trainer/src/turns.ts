import { ensureError } from '@spindle/kit';

/** First come, first served; whoever stops waiting lets the next one pass. */
export class Turns {
  #last: Promise<void> = Promise.resolve();

  /** Resolves with the function that gives the turn back. */
  async enter(signal: AbortSignal): Promise<() => void> {
    const before = this.#last;
    let leave = (): void => undefined;
    const mine = new Promise<void>((resolve) => {
      leave = resolve;
    });
    this.#last = before.then(() => mine);
    try {
      await Promise.race([before, aborted(signal)]);
    } catch (error) {
      leave();
      throw error;
    }
    return leave;
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const fail = (): void => reject(ensureError(signal.reason));
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}
