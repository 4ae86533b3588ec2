import { Metadata, type StatusObject } from '@grpc/grpc-js';
import { ensureError, isErrorCode, SpindleError, toGrpcStatus } from '../errors.js';

/**
 * Trailers that carry what a gRPC status cannot say: the exact code, and whether trying again may
 * help.
 */
const codeKey = 'spindle-code';
const retryableKey = 'spindle-retryable';

export function toStatus(error: unknown): StatusObject {
  const failure = ensureError(error);
  const metadata = new Metadata();
  metadata.set(codeKey, failure.code);
  metadata.set(retryableKey, String(failure.retryable));
  return { code: toGrpcStatus(failure), details: failure.message, metadata };
}

/** The error as the server threw it. */
export function fromStatus(error: unknown): SpindleError {
  const failure = ensureError(error);
  const metadata: unknown =
    error instanceof Error && 'metadata' in error ? error.metadata : undefined;
  if (!(metadata instanceof Metadata)) return failure;
  const code = String(metadata.get(codeKey)[0] ?? '');
  const retryable = metadata.get(retryableKey)[0];
  if (!isErrorCode(code)) return failure;
  return new SpindleError(code, failure.message, {
    cause: error,
    ...(retryable === undefined ? {} : { retryable: retryable === 'true' }),
  });
}
