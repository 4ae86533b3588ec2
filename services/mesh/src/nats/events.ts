import { fromJsonString } from '@bufbuild/protobuf';
import { eventFilter, EventSchema, streams, type Event } from '@spindle/proto';
import type { Consumer, ConsumerMessages, JetStreamClient, JetStreamManager } from 'nats';
import { ensureError, delay, type Logger } from '@spindle/kit';
import { apiErrors, isApiError } from './errors.js';

/**
 * Every event once and in order; when the server comes back, or comes back empty, reading goes on
 * where it makes sense.
 */
export async function* readEvents(
  js: JetStreamClient,
  jsm: JetStreamManager,
  logger: Logger,
  onReconnect: (fn: () => void) => () => void,
  runId: string,
  options: { fromSequence?: bigint; signal: AbortSignal },
): AsyncGenerator<{ sequence: bigint; event: Event }> {
  const { signal } = options;
  let next = Math.max(1, Number(options.fromSequence ?? 1n));
  let stream: string | undefined;
  while (!signal.aborted) {
    let messages: ConsumerMessages | undefined;
    let consumer: Consumer | undefined;
    const stop = (): void => messages?.stop();
    signal.addEventListener('abort', stop, { once: true });
    // The client would make its consumer again by itself, at the sequence it knew; the stream may
    // be another one by now.
    let interrupt: (error: Error) => void = () => undefined;
    const interrupted = new Promise<never>((_, reject) => (interrupt = reject));
    interrupted.catch(() => undefined);
    const forget = onReconnect(() => {
      interrupt(new Error('the connection was lost and is back'));
      stop();
    });
    try {
      // A stream that was lost and made again begins at 1.
      const { created, state } = await jsm.streams.info(streams.events);
      if ((stream !== undefined && created !== stream) || state.last_seq < next - 1) next = 1;
      stream = created;
      consumer = await js.consumers.get(streams.events, {
        filterSubjects: eventFilter(runId),
        opt_start_seq: next,
      });
      // A server that goes down while it makes the consumer leaves the client waiting for its
      // answer, for ever.
      const begun = consumer.consume({ max_messages: 100, abort_on_missing_resource: true });
      messages = await Promise.race([begun, interrupted]).catch((error: unknown) => {
        void begun.then(
          (late) => late.stop(),
          () => undefined,
        );
        throw error;
      });
      // Aborted while the consumer was being made: `stop` found nothing to stop.
      if (signal.aborted) return;
      for await (const msg of messages) {
        next = msg.seq + 1;
        const event = readEvent(msg.string());
        if (event) yield { sequence: BigInt(msg.seq), event };
        else logger.warn({ sequence: msg.seq }, 'an event cannot be read and is skipped');
        if (signal.aborted) return;
      }
    } catch (error) {
      logger.debug({ err: ensureError(error) }, 'reading events was interrupted');
    } finally {
      signal.removeEventListener('abort', stop);
      forget();
      messages?.stop();
      // The server would keep it for minutes more.
      void consumer?.delete().catch(() => undefined);
    }
    await delay(250, signal).catch(() => undefined);
  }
}

/** Without a consumer: one request for each event that can be read. */
export async function storedEvent(
  jsm: JetStreamManager,
  runId: string,
  fromSequence: bigint,
): Promise<{ sequence: bigint; event: Event } | null> {
  for (let next = Number(fromSequence); ; ) {
    const request = { seq: next, next_by_subj: eventFilter(runId) };
    try {
      const message = await jsm.streams.getMessage(streams.events, request);
      const event = readEvent(message.string());
      if (event) return { sequence: BigInt(message.seq), event };
      next = message.seq + 1;
    } catch (error) {
      if (isApiError(error, apiErrors.noMessageFound)) return null;
      throw error;
    }
  }
}

function readEvent(json: string): Event | undefined {
  try {
    return fromJsonString(EventSchema, json, { ignoreUnknownFields: true });
  } catch {
    // Written by another version, or by hand; the caller logs it.
    return undefined;
  }
}
