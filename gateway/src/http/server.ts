/**
 * The status page and its JSON, on 127.0.0.1. Reads only; the Host header is checked, so that no
 * web page can read it by DNS rebinding.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { ensureError, SpindleError, type Logger } from '@spindle/kit';
import { type Bus } from '@spindle/mesh';
import type { Orchestrator } from '../orchestrator/orchestrator.js';
import type { TaggedJson } from '../server/run-list.js';
import type { RunApi } from '../server/run-service.js';
import { streamEvents } from './events.js';
import { listImages, sendImage } from './images.js';
import { servePage } from './page.js';
import { LiveViews } from './live-views.js';
import { runDetails } from './views.js';

export interface HttpOptions {
  address: string;
  orchestrator: Orchestrator;
  api: RunApi;
  bus: Bus;
  logger: Logger;
}

export async function startHttp(
  options: HttpOptions,
): Promise<{ port: number; stop(): Promise<void> }> {
  const separator = options.address.lastIndexOf(':');
  const host = options.address.slice(0, separator).replace(/^\[|\]$/g, '');
  const wanted = Number(options.address.slice(separator + 1));
  const live = new LiveViews(options);
  const server = createServer((request, response) => {
    handle(request, response, { ...options, live }, host).catch((thrown: unknown) =>
      sendError(response, thrown, options.logger),
    );
  });
  await listen(server, host, wanted);
  return {
    port: (server.address() as AddressInfo).port,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      const inUse = 'code' in error && error.code === 'EADDRINUSE';
      reject(
        inUse
          ? new SpindleError(
              'FAILED_PRECONDITION',
              `http address ${host}:${port}: the port is in use; choose another one.`,
              {
                cause: error,
              },
            )
          : error,
      );
    });
    server.listen(port, host, () => resolve());
  });
}

/** What requests are answered from. */
type Sources = HttpOptions & { live: LiveViews };

async function handle(
  request: IncomingMessage,
  response: ServerResponse,
  options: Sources,
  boundHost: string,
): Promise<void> {
  response.setHeader('X-Content-Type-Options', 'nosniff');
  response.setHeader('Referrer-Policy', 'no-referrer');
  if (!isOwnHost(request.headers.host, boundHost)) {
    sendText(response, 403, 'This address is not served here.');
  } else if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    sendText(response, 405, 'Only GET is served; use the spindle command to change a run.');
  } else {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const [first, ...rest] = pathname
      .split('/')
      .filter((part) => part !== '')
      .map(decode);
    if (first === 'api') await serveApi(rest, request, response, options);
    else await servePage(response, pathname);
  }
}

async function serveApi(
  path: string[],
  request: IncomingMessage,
  response: ServerResponse,
  { orchestrator, api, live }: Sources,
): Promise<void> {
  const [resource, runId, what, ...rest] = path;
  if (resource === 'workers' && runId === undefined) {
    sendJson(response, await live.workers());
  } else if (resource === 'runs' && runId === undefined) {
    sendTagged(request, response, api.list.json());
  } else if (resource === 'runs' && runId !== undefined) {
    const driver = orchestrator.get(runId);
    if (what === undefined) sendJson(response, await runDetails(driver, api, live));
    else if (what === 'events' && rest.length === 0)
      streamEvents(request, response, runId, { orchestrator, live });
    else if (what === 'images' && rest.length === 0) sendJson(response, await listImages(driver));
    else if (what === 'images') await sendImage(response, driver, rest);
    else throw notFound(path);
  } else {
    throw notFound(path);
  }
}

function notFound(path: string[]): SpindleError {
  return new SpindleError('NOT_FOUND', `/api/${path.join('/')}: there is nothing here.`);
}

/**
 * The names by which a person on this machine reaches us; a wildcard address accepts every name,
 * because someone chose that.
 */
function isOwnHost(header: string | undefined, boundHost: string): boolean {
  if (boundHost === '0.0.0.0' || boundHost === '::') return true;
  const name = (header ?? '')
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase();
  return name === 'localhost' || name === '127.0.0.1' || name === '::1' || name === boundHost;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `address: expected percent-encoded UTF-8, got "${part}".`,
    );
  }
}

export function sendJson(response: ServerResponse, value: unknown): void {
  response.setHeader('Cache-Control', 'no-store');
  response.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' });
  response.end(JSON.stringify(value));
}

/** Whoever has it already, by its tag, gets no more than that. */
function sendTagged(
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

function sendText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' });
  response.end(`${text}\n`);
}

function sendError(response: ServerResponse, thrown: unknown, logger: Logger): void {
  const error = ensureError(thrown);
  const status =
    error.code === 'NOT_FOUND'
      ? 404
      : error.code === 'INVALID_ARGUMENT'
        ? 400
        : error.code === 'FAILED_PRECONDITION'
          ? 409
          : error.code === 'UNAVAILABLE'
            ? 503
            : 500;
  if (status === 500) logger.error({ err: error }, 'a request failed');
  if (response.headersSent) response.destroy();
  else sendText(response, status, error.message);
}
