import { delay, within, type Logger } from '@spindle/kit';
import type { KvStore } from './nats/kv.js';
import { untilAborted } from './nats/until-aborted.js';

const goodbyeMs = 1_000;

/**
 * Tells the others that this process lives; a heartbeat that cannot be sent is not worth failing
 * for.
 */
export async function heartbeat(
  kv: KvStore,
  key: string,
  describe: () => object,
  options: { intervalMs: number; signal: AbortSignal; logger: Logger },
): Promise<void> {
  const { signal, logger, intervalMs } = options;
  while (!signal.aborted) {
    try {
      const value = JSON.stringify({ ...describe(), at: new Date().toISOString() });
      await untilAborted(kv.put(key, value), signal);
    } catch (error) {
      logger.debug({ err: error }, 'heartbeat not sent');
    }
    await delay(intervalMs, signal).catch(() => undefined);
  }
  // Leaving at once is kinder than waiting for the entry to expire; it expires anyway.
  await within(goodbyeMs, kv.delete(key)).catch(() => undefined);
}
