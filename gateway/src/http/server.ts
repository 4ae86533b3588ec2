/**
 * The status page and its JSON, on 127.0.0.1, for those who know its link or the mesh's token.
 * Reads only; the Host header is checked, so that no web page can read it by DNS rebinding.
 */
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import {
  checkOpenDoor,
  hostOf,
  SpindleError,
  type Logger,
  type People,
  type Transport,
} from '@spindle/kit';
import { cookieOf, isOwnHost, isOwnOrigin, mayLook } from './access.js';
import type { Bus } from '@spindle/mesh';
import { LiveViews } from './live-views.js';
import { answer, type Served } from './routes.js';
import { sendError, sendText } from './send.js';

export interface HttpOptions extends Omit<Served, 'live'> {
  bus: Bus;
  address: string;
  /** The mesh's; undefined where every user of this machine may look. */
  token: string | undefined;
  /** Who else may look; only with a token. */
  people?: People | undefined;
  transport: Transport;
  logger: Logger;
}

const closed =
  'This page opens by its link, which holds a key. "npx spindle page" prints the link; add ' +
  '"--artifacts DIR" where the mesh has another artifacts folder than ./artifacts.';

export async function startHttp(
  options: HttpOptions,
): Promise<{ port: number; stop(): Promise<void> }> {
  const { address, token, transport, logger } = options;
  checkOpenDoor(address, { token, transport }, logger);
  const host = hostOf(address).replace(/^\[|\]$/g, '');
  const wanted = Number(address.slice(address.lastIndexOf(':') + 1));
  const live = new LiveViews(options);
  const { server, release } = serverOf(transport, (request, response) => {
    handle(request, response, { ...options, live }, host).catch((thrown: unknown) =>
      sendError(response, thrown, options.logger),
    );
  });
  await listen(server, host, wanted);
  return {
    port: (server.address() as AddressInfo).port,
    stop: () =>
      new Promise((resolve) => {
        release();
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Browsers show the token, not a certificate: none is asked for. */
function serverOf(
  { tls }: Transport,
  listener: RequestListener,
): { server: Server; release: () => void } {
  const identity = tls?.content.identity;
  if (!tls || !identity) return { server: createServer(listener), release: () => undefined };
  const server = createSecureServer({ ...identity, minVersion: 'TLSv1.2' }, listener);
  const release = tls.onChange(() => {
    if (tls.content.identity)
      server.setSecureContext({ ...tls.content.identity, minVersion: 'TLSv1.2' });
  });
  return { server, release };
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
  response.setHeader('Cross-Origin-Resource-Policy', 'same-origin');
  const { token, people } = options;
  if (!isOwnHost(request.headers.host, boundHost) || !isOwnOrigin(request)) {
    sendText(response, 403, 'This address is not served here.');
    return;
  }
  const path = request.url ?? '/';
  if (!URL.canParse(path, 'http://localhost')) {
    sendText(response, 400, 'The address cannot be read.');
    return;
  }
  const url = new URL(path, 'http://localhost');
  const cookie = token === undefined ? undefined : cookieOf(request, url, { token, people });
  if (request.method === 'GET' && cookie !== undefined) {
    enter(request, response, cookie);
  } else if (token !== undefined && !mayLook(request, { token, people })) {
    response.setHeader('WWW-Authenticate', 'Bearer');
    sendText(response, 401, closed);
  } else if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    sendText(response, 405, 'Only GET is served; use the spindle command to change a run.');
  } else {
    await answer(url.pathname, { request, response, ...options });
  }
}

/** The key goes out of the address at once; what stays in the browser is the cookie. */
function enter(request: IncomingMessage, response: ServerResponse, cookie: string): void {
  response.setHeader('Set-Cookie', cookie);
  const from = request.headers['sec-fetch-site'];
  if (from === 'cross-site' || from === 'same-site') {
    // After a redirect that another site's page began, browsers keep back a strict cookie.
    response.setHeader('Refresh', '0; url=/');
    sendText(response, 200, 'Opening the status page.');
  } else {
    response.setHeader('Location', '/');
    sendText(response, 303, 'The status page is at /.');
  }
}
