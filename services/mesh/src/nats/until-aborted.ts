import { cancelled } from '@spindle/kit';

/** Long enough for an answer of a server that is there. */
const graceMs = 2_000;

/**
 * The answer of a server, but soon after the signal aborts CANCELLED instead: one that is away must
 * not keep a process that is to end.
 */
export async function untilAborted<T>(answer: Promise<T>, signal: AbortSignal): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort = (): void => undefined;
  const given = new Promise<never>((_, reject) => {
    onAbort = () => {
      timer = setTimeout(() => reject(cancelled(signal)), graceMs);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([answer, given]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    answer.catch(() => undefined);
  }
}
