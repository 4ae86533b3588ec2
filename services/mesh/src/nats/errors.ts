import { ErrorCode as NatsErrorCode, NatsError } from 'nats';
import { ensureError, SpindleError } from '@spindle/kit';

/** Numbers of JetStream's own errors (the server's errors.json). */
export const apiErrors = {
  consumerNotFound: 10014,
  consumerExists: 10148,
  noMessageFound: 10037,
  streamNotFound: 10059,
  streamNameInUse: 10058,
  wrongLastSequence: 10071,
  maximumMessages: 10077,
} as const;

const noResponders: string = NatsErrorCode.NoResponders;
const tooLarge: string = NatsErrorCode.MaxPayloadExceeded;
/** The server, or the way to it, is away for now. */
const away: ReadonlySet<string> = new Set([
  NatsErrorCode.Timeout,
  NatsErrorCode.ConnectionRefused,
  NatsErrorCode.ConnectionTimeout,
  NatsErrorCode.ConnectionClosed,
  NatsErrorCode.ConnectionDraining,
  NatsErrorCode.Disconnect,
  NatsErrorCode.RequestError,
]);

export function isApiError(error: unknown, code: number): boolean {
  return error instanceof NatsError && error.api_error?.err_code === code;
}

/**
 * What a server that came back without its data does not find is made anew, once, and asked for
 * again.
 */
export async function orRebuilt<T>(
  ask: () => Promise<T>,
  rebuild: () => Promise<void>,
): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    const isGone =
      isApiError(error, apiErrors.streamNotFound) || isApiError(error, apiErrors.consumerNotFound);
    if (!isGone) throw error;
    await rebuild();
    return ask();
  }
}

/** A failure of the messaging layer in our words; `doing` says what was tried. */
export function natsError(error: unknown, doing: string): SpindleError {
  if (error instanceof SpindleError) return error;
  if (!(error instanceof NatsError)) {
    const failure = ensureError(error);
    return new SpindleError(failure.code, `${doing}: ${failure.message}`, { cause: error });
  }
  const message = `${doing}: ${error.message}`;
  const options = { cause: error };
  const code: string = error.code;
  if (code === noResponders) {
    return new SpindleError(
      'UNAVAILABLE',
      `${doing}: JetStream does not answer; is the server started with JetStream (nats-server ` +
        '-js)?',
      options,
    );
  }
  if (code === tooLarge) return new SpindleError('INVALID_ARGUMENT', message, options);
  if (away.has(code)) return new SpindleError('UNAVAILABLE', message, options);
  return new SpindleError(
    error.api_error?.code === 404 ? 'NOT_FOUND' : 'INTERNAL',
    message,
    options,
  );
}
