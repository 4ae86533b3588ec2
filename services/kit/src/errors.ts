import { status } from '@grpc/grpc-js';
import { printable } from './printable.js';

/** Every error that leaves a function of a Spindle process carries one of these codes. */
export type ErrorCode =
  | 'INVALID_ARGUMENT'
  | 'UNAUTHENTICATED'
  | 'PERMISSION_DENIED'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'CANCELLED'
  | 'DEADLINE_EXCEEDED'
  | 'RESOURCE_EXHAUSTED'
  | 'UNAVAILABLE'
  | 'DATA_LOSS'
  | 'DIVERGED'
  | 'INTERNAL';

/**
 * What an error means on the wire and to a queue: retryable failures are nak'ed, the others
 * dead-lettered at once.
 */
const table: Readonly<Record<ErrorCode, { grpc: status; retryable: boolean }>> = {
  INVALID_ARGUMENT: { grpc: status.INVALID_ARGUMENT, retryable: false },
  // The caller did not show the mesh's token, nor one that the mesh knows.
  UNAUTHENTICATED: { grpc: status.UNAUTHENTICATED, retryable: false },
  // The caller's role does not reach so far.
  PERMISSION_DENIED: { grpc: status.PERMISSION_DENIED, retryable: false },
  NOT_FOUND: { grpc: status.NOT_FOUND, retryable: false },
  ALREADY_EXISTS: { grpc: status.ALREADY_EXISTS, retryable: false },
  FAILED_PRECONDITION: { grpc: status.FAILED_PRECONDITION, retryable: false },
  ABORTED: { grpc: status.ABORTED, retryable: true },
  CANCELLED: { grpc: status.CANCELLED, retryable: true },
  DEADLINE_EXCEEDED: { grpc: status.DEADLINE_EXCEEDED, retryable: true },
  RESOURCE_EXHAUSTED: { grpc: status.RESOURCE_EXHAUSTED, retryable: true },
  UNAVAILABLE: { grpc: status.UNAVAILABLE, retryable: true },
  DATA_LOSS: { grpc: status.DATA_LOSS, retryable: false },
  // The training loss is NaN or infinite: gRPC has no word for it, so the exact code travels in
  // metadata.
  DIVERGED: { grpc: status.FAILED_PRECONDITION, retryable: false },
  // A bug or an unknown failure; it may be a passing one, and three tries bound it.
  INTERNAL: { grpc: status.INTERNAL, retryable: true },
};

const systemCodes: Readonly<Record<string, { code: ErrorCode; says?: string }>> = {
  ENOSPC: { code: 'RESOURCE_EXHAUSTED', says: 'the disk is full' },
  EDQUOT: { code: 'RESOURCE_EXHAUSTED', says: 'the disk quota is used up' },
  EMFILE: { code: 'RESOURCE_EXHAUSTED', says: 'too many files are open' },
  ENFILE: { code: 'RESOURCE_EXHAUSTED', says: 'too many files are open' },
  ENOMEM: { code: 'RESOURCE_EXHAUSTED', says: 'out of memory' },
  ENOENT: { code: 'NOT_FOUND' },
  ENOTDIR: { code: 'NOT_FOUND' },
  EEXIST: { code: 'ALREADY_EXISTS' },
  EACCES: { code: 'FAILED_PRECONDITION' },
  EPERM: { code: 'FAILED_PRECONDITION' },
  EROFS: { code: 'FAILED_PRECONDITION' },
  EISDIR: { code: 'FAILED_PRECONDITION' },
  EADDRINUSE: { code: 'FAILED_PRECONDITION', says: 'the port is in use' },
  ECONNREFUSED: { code: 'UNAVAILABLE' },
  ECONNRESET: { code: 'UNAVAILABLE' },
  EHOSTUNREACH: { code: 'UNAVAILABLE' },
  ENOTFOUND: { code: 'UNAVAILABLE' },
  EPIPE: { code: 'UNAVAILABLE' },
  ETIMEDOUT: { code: 'DEADLINE_EXCEEDED' },
  ERR_FS_FILE_TOO_LARGE: { code: 'RESOURCE_EXHAUSTED' },
};

/** An error with a code that decides what callers do: try again, give up, tell the person. */
export class SpindleError extends Error {
  override readonly name = 'SpindleError';
  readonly code: ErrorCode;
  /** Decided where it is thrown: may the same work succeed when it is tried again? */
  readonly retryable: boolean;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; retryable?: boolean } = {},
  ) {
    super(printable(message), 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.retryable = options.retryable ?? table[code].retryable;
  }
}

/**
 * Normalises whatever was thrown; called once, where an error enters a boundary (gRPC, queue,
 * main).
 */
export function ensureError(e: unknown): SpindleError {
  if (e instanceof SpindleError) return e;
  if (!(e instanceof Error))
    return new SpindleError('INTERNAL', `something that is no error was thrown: ${String(e)}`);
  const code: unknown = 'code' in e ? e.code : undefined;
  if (typeof code === 'string') {
    if (isErrorCode(code)) return new SpindleError(code, e.message, { cause: e });
    const known = systemCodes[code];
    if (known)
      return new SpindleError(known.code, known.says ? `${known.says}: ${e.message}` : e.message, {
        cause: e,
      });
  }
  if (e.name === 'AbortError') return new SpindleError('CANCELLED', e.message, { cause: e });
  if (e.name === 'TimeoutError')
    return new SpindleError('DEADLINE_EXCEEDED', e.message, { cause: e });
  if (isServiceError(e)) {
    return new SpindleError(fromGrpcStatus(e.code), e.details === '' ? e.message : e.details, {
      cause: e,
    });
  }
  return new SpindleError('INTERNAL', e.message === '' ? e.name : e.message, { cause: e });
}

/** Whether a text, such as one from a message's header, is one of the codes. */
export function isErrorCode(value: string): value is ErrorCode {
  return Object.hasOwn(table, value);
}

export function toGrpcStatus(e: SpindleError): status {
  return table[e.code].grpc;
}

export function fromGrpcStatus(code: status): ErrorCode {
  const name: string | undefined = status[code];
  if (name !== undefined && isErrorCode(name)) return name;
  switch (code) {
    case status.OUT_OF_RANGE:
      return 'INVALID_ARGUMENT';
    case status.PERMISSION_DENIED:
    case status.UNIMPLEMENTED:
      return 'FAILED_PRECONDITION';
    default:
      return 'INTERNAL';
  }
}

function isServiceError(e: Error): e is Error & { code: status; details: string } {
  return (
    'code' in e && typeof e.code === 'number' && 'details' in e && typeof e.details === 'string'
  );
}
