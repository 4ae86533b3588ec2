/** What an S3 client throws, in the words and codes of Spindle. */
import { ensureError, SpindleError } from '../errors.js';

interface Thrown {
  name: string;
  status: number | undefined;
  message: string;
  code: string | undefined;
}

export function isMissing(error: unknown): boolean {
  const { name, status } = look(error);
  return name === 'NoSuchKey' || name === 'NotFound' || (status === 404 && name !== 'NoSuchBucket');
}

/**
 * May the same request succeed later? Overload, a server's failure and whatever the network does;
 * not what the store refuses.
 */
export function isPassing(error: unknown): boolean {
  if (error instanceof SpindleError) return error.retryable;
  const { name, status, code } = look(error);
  if (name === 'CredentialsProviderError') return false;
  if (status !== undefined && status >= 400)
    return status >= 500
      ? status !== 501
      : [408, 409, 429].includes(status) || name === 'RequestTimeout';
  if (name === 'TimeoutError' || code !== undefined) return true;
  return (
    error instanceof Error && /socket hang up|aborted|premature|terminated/i.test(error.message)
  );
}

export function clearly(url: string, error: unknown, attempts: number): SpindleError {
  if (error instanceof SpindleError && !error.retryable) return error;
  const { name, status, message } = look(error);
  const fail = (code: ConstructorParameters<typeof SpindleError>[0], what: string): SpindleError =>
    new SpindleError(code, `${url}: ${what}`, { cause: error });
  if (name === 'CredentialsProviderError')
    return fail(
      'FAILED_PRECONDITION',
      'expected credentials for S3 (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ' +
        'AWS_PROFILE), found none',
    );
  if (name === 'NoSuchBucket') return fail('NOT_FOUND', 'the bucket does not exist');
  if (status === 403)
    return fail(
      'FAILED_PRECONDITION',
      `the store refuses access (403 ${name}); check the credentials and their rights`,
    );
  if (status === 404) return fail('NOT_FOUND', 'the object does not exist');
  if (status === 301)
    return fail('FAILED_PRECONDITION', 'the bucket lies in another region; set AWS_REGION to it');
  if (status !== undefined && status >= 400 && !isPassing(error))
    return fail(
      'FAILED_PRECONDITION',
      `the store refuses the request (${status} ${name}: ${message})`,
    );
  const tries = attempts > 1 ? ` after ${attempts} attempts` : '';
  if (status !== undefined && status >= 400)
    return fail('UNAVAILABLE', `the store fails${tries} (${status} ${name})`);
  const known = ensureError(error);
  return fail(
    known.code === 'INTERNAL' ? (isPassing(error) ? 'UNAVAILABLE' : 'INTERNAL') : known.code,
    `the store does not answer${tries} (${message || name})`,
  );
}

function look(error: unknown): Thrown {
  if (!(error instanceof Error))
    return { name: 'unknown', status: undefined, message: String(error), code: undefined };
  const { $metadata, code } = error as { $metadata?: { httpStatusCode?: number }; code?: unknown };
  return {
    name: error.name,
    status: $metadata?.httpStatusCode,
    message: error.message,
    code: typeof code === 'string' ? code : undefined,
  };
}
