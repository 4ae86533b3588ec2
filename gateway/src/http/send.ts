import type { IncomingMessage, ServerResponse } from 'node:http';
import { ensureError, type ErrorCode, type Logger } from '@spindle/kit';
import type { TaggedJson } from '../server/run-list.js';

/** Errors that are the asker's, or pass; every other one is a fault of ours. */
const statuses: Partial<Record<ErrorCode, number>> = {
  INVALID_ARGUMENT: 400,
  UNAUTHENTICATED: 401,
  NOT_FOUND: 404,
  FAILED_PRECONDITION: 409,
  UNAVAILABLE: 503,
};

export function sendJson(response: ServerResponse, value: unknown): void {
  response.setHeader('Cache-Control', 'no-store');
  response.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' });
  response.end(JSON.stringify(value));
}

/** Whoever has it already, by its tag, gets no more than that. */
export function sendTagged(
  request: IncomingMessage,
  response: ServerResponse,
  { body, tag }: TaggedJson,
): void {
  // A browser keeps it and asks each time whether it is still right.
  response.setHeader('Cache-Control', 'no-cache');
  response.setHeader('ETag', tag);
  const known = request.headers['if-none-match']?.split(',').map((one) => one.trim()) ?? [];
  if (known.some((one) => one === tag || one === `W/${tag}` || one === '*')) {
    response.writeHead(304).end();
    return;
  }
  response.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' });
  response.end(body);
}

export function sendText(response: ServerResponse, status: number, text: string): void {
  response.setHeader('Cache-Control', 'no-store');
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' });
  response.end(`${text}\n`);
}

export function sendError(response: ServerResponse, thrown: unknown, logger: Logger): void {
  const error = ensureError(thrown);
  const status = statuses[error.code] ?? 500;
  if (status === 500) logger.error({ err: error }, 'a request failed');
  if (response.headersSent) response.destroy();
  else sendText(response, status, error.message);
}
