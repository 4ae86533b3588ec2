import { cancelled, delay, linkedAbort } from '@spindle/kit';

/** Long enough for an answer of a server that is there. */
const graceMs = 2_000;

/**
 * The answer of a server, but soon after the signal aborts CANCELLED instead: one that is away must
 * not keep a process that is to end.
 */
export async function untilAborted<T>(answer: Promise<T>, signal: AbortSignal): Promise<T> {
  const over = linkedAbort();
  const given = new Promise<never>((_, reject) => {
    const onAbort = (): void => {
      delay(graceMs, over.signal).then(
        () => reject(cancelled(signal)),
        () => undefined,
      );
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    over.signal.addEventListener('abort', () => signal.removeEventListener('abort', onAbort));
  });
  try {
    return await Promise.race([answer, given]);
  } finally {
    over.abort();
    answer.catch(() => undefined);
  }
}
