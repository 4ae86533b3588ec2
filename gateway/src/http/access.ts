/**
 * Who may look at the page: a browser that came by the page's link and has had its cookie since, or
 * a program that shows the mesh's token.
 */
import { createHmac } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { sameToken, showsToken } from '@spindle/kit';

/**
 * What link and cookie hold. It opens the page alone: browsers send a cookie to every server of
 * this machine, whatever its port, and a terminal's output may be kept.
 */
export function pageKey(token: string): string {
  return createHmac('sha256', token).update('spindle status page').digest('base64url');
}

/** The link that opens the page at `address`, http://host:port. */
export function pageLink(address: string, token: string | undefined): string {
  const url = new URL(address);
  if (token !== undefined) url.searchParams.set('token', pageKey(token));
  return url.href;
}

/** Meshes of one machine share their cookies; the port keeps them apart. */
function cookieName(request: IncomingMessage): string {
  return `spindle_page_${request.socket.localPort ?? 0}`;
}

/** The cookie to set when the link was followed; undefined where it is not the page's link. */
export function cookieOf(request: IncomingMessage, url: URL, token: string): string | undefined {
  const given = url.searchParams.get('token');
  if (url.pathname !== '/' || given === null || !sameToken(given, pageKey(token))) return undefined;
  const secure = request.socket instanceof TLSSocket ? '; Secure' : '';
  return `${cookieName(request)}=${given}; HttpOnly; SameSite=Strict; Path=/${secure}`;
}

export function mayLook(request: IncomingMessage, token: string): boolean {
  if (showsToken(request.headers.authorization, token)) return true;
  const name = cookieName(request);
  const cookies = (request.headers.cookie ?? '').split(';').map((text) => text.trim());
  return cookies.some(
    (cookie) =>
      cookie.startsWith(`${name}=`) && sameToken(cookie.slice(name.length + 1), pageKey(token)),
  );
}

/**
 * The names by which a person on this machine reaches us; a wildcard address accepts every name,
 * because someone chose that.
 */
export function isOwnHost(header: string | undefined, boundHost: string): boolean {
  if (boundHost === '0.0.0.0' || boundHost === '::') return true;
  const name = (header ?? '')
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase();
  return name === 'localhost' || name === '127.0.0.1' || name === '::1' || name === boundHost;
}

/** Browsers name the page that asks where it is not ours; programs name none. */
export function isOwnOrigin(request: IncomingMessage): boolean {
  const { origin, host } = request.headers;
  return origin === undefined || (URL.canParse(origin) && new URL(origin).host === host);
}
