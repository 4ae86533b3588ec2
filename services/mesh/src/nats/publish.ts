import { NatsError, type JetStreamClient, type JetStreamPublishOptions, type MsgHdrs } from 'nats';
import { cancelled, delay } from '@spindle/kit';
import { apiErrors, isApiError, natsError } from './errors.js';

const attemptMs = 3_000;
const giveUpMs = 60_000;

export interface Publication {
  subject: string;
  payload: string;
  headers: MsgHdrs;
  /**
   * Makes repeats within the stream's window harmless, so that a lost acknowledgement can be
   * answered by sending again.
   */
  msgId: string;
  signal?: AbortSignal | undefined;
  /** Called once when the stream is full and the publisher begins to wait. */
  onFull?: () => void;
}

/**
 * Stored when it returns. Waits without limit for room in a full stream, and up to a minute for a
 * server that is away.
 */
export async function publishStored(js: JetStreamClient, publication: Publication): Promise<void> {
  const { subject, payload, headers, msgId, signal } = publication;
  const options: Partial<JetStreamPublishOptions> = { msgID: msgId, headers, timeout: attemptMs };
  let waited = false;
  let since = performance.now();
  for (let attempt = 0; ; attempt++) {
    if (signal?.aborted) throw cancelled(signal);
    try {
      await js.publish(subject, payload, options);
      return;
    } catch (error) {
      if (isApiError(error, apiErrors.maximumMessages)) {
        if (!waited) publication.onFull?.();
        waited = true;
        since = performance.now();
      } else if (!isPassing(error) || performance.now() - since > giveUpMs) {
        throw natsError(error, `publishing to ${subject}`);
      }
    }
    await delay(Math.min(1_000, 50 * 2 ** Math.min(attempt, 5)), signal);
  }
}

function isPassing(error: unknown): boolean {
  const failure = natsError(error, '');
  return (
    error instanceof NatsError &&
    failure.code === 'UNAVAILABLE' &&
    error.code !== 'CONNECTION_CLOSED' &&
    error.code !== 'CONNECTION_DRAINING'
  );
}
