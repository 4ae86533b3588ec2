import { status } from '@grpc/grpc-js';
import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { ensureError, fromGrpcStatus, SpindleError, toGrpcStatus } from './errors.js';

test('an error of ours passes through unchanged', () => {
  const error = new SpindleError('DATA_LOSS', 'bad blob');
  expect(ensureError(error)).toBe(error);
});

test('a native error keeps its code', () => {
  const native = Object.assign(new Error('loss is nan at step 7'), { code: 'DIVERGED' });
  expect(ensureError(native)).toMatchObject({
    code: 'DIVERGED',
    retryable: false,
    message: 'loss is nan at step 7',
    cause: native,
  });
});

test('system errors say what happened', async () => {
  const missing: unknown = await readFile('/nonexistent/file').catch((error: unknown) => error);
  expect(ensureError(missing)).toMatchObject({ code: 'NOT_FOUND' });
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), {
    code: 'ENOSPC',
  });
  expect(ensureError(full)).toMatchObject({
    code: 'RESOURCE_EXHAUSTED',
    message: 'the disk is full: ENOSPC: no space left on device, write',
  });
});

test('aborts, timeouts and things that are no errors are named', () => {
  expect(ensureError(new DOMException('stop', 'AbortError')).code).toBe('CANCELLED');
  expect(ensureError(new DOMException('late', 'TimeoutError')).code).toBe('DEADLINE_EXCEEDED');
  expect(ensureError('oops')).toMatchObject({
    code: 'INTERNAL',
    message: 'something that is no error was thrown: oops',
  });
});

test("whether to try again is the code's default unless the thrower knows better", () => {
  expect(new SpindleError('UNAVAILABLE', '').retryable).toBe(true);
  expect(new SpindleError('INVALID_ARGUMENT', '').retryable).toBe(false);
  expect(new SpindleError('UNAVAILABLE', '', { retryable: false }).retryable).toBe(false);
});

test('every code has a gRPC status, and statuses come back as the nearest code', () => {
  expect(toGrpcStatus(new SpindleError('NOT_FOUND', ''))).toBe(status.NOT_FOUND);
  expect(toGrpcStatus(new SpindleError('DIVERGED', ''))).toBe(status.FAILED_PRECONDITION);
  expect(fromGrpcStatus(status.UNAVAILABLE)).toBe('UNAVAILABLE');
  expect(fromGrpcStatus(status.OUT_OF_RANGE)).toBe('INVALID_ARGUMENT');
  expect(fromGrpcStatus(status.UNKNOWN)).toBe('INTERNAL');
});
