/**
 * What the engine, its models and its readers throw: `code` is one of the closed set that the
 * services map to gRPC.
 */
export type EngineErrorCode =
  | 'INVALID_ARGUMENT'
  | 'NOT_FOUND'
  | 'FAILED_PRECONDITION'
  | 'CANCELLED'
  | 'RESOURCE_EXHAUSTED'
  | 'DATA_LOSS'
  | 'DIVERGED'
  | 'UNAVAILABLE'
  | 'INTERNAL';

const codes: ReadonlySet<string> = new Set<EngineErrorCode>([
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'FAILED_PRECONDITION',
  'CANCELLED',
  'RESOURCE_EXHAUSTED',
  'DATA_LOSS',
  'DIVERGED',
  'UNAVAILABLE',
  'INTERNAL',
]);

/** An error of the engine, with a code as SpindleError has; messages name what was wrong. */
export class EngineError extends Error {
  override readonly name = 'EngineError';
  readonly code: EngineErrorCode;

  constructor(code: EngineErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

export function isEngineErrorCode(code: unknown): code is EngineErrorCode {
  return typeof code === 'string' && codes.has(code);
}

/**
 * Gives whatever the addon threw a code: its own where it has one, RESOURCE_EXHAUSTED for a full
 * disk, INTERNAL otherwise.
 */
export function toEngineError(thrown: unknown): EngineError {
  if (thrown instanceof EngineError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const code: unknown = thrown instanceof Error && 'code' in thrown ? thrown.code : undefined;
  if (isEngineErrorCode(code)) return new EngineError(code, message, { cause: thrown });
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new EngineError('RESOURCE_EXHAUSTED', message, { cause: thrown });
  return new EngineError('INTERNAL', message, { cause: thrown });
}

/** Bad input in one sentence: `<where>: <what>`. */
export function invalid(where: string, what: string): EngineError {
  return new EngineError('INVALID_ARGUMENT', `${where}: ${what}`);
}
