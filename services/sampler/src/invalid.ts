import { SpindleError } from '@spindle/kit';

/** Pure decisions throw plain Errors about their input; here they get the code that callers see. */
export function invalidIfThrows<T>(decide: () => T): T {
  try {
    return decide();
  } catch (cause) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      cause instanceof Error ? cause.message : String(cause),
      { cause },
    );
  }
}
