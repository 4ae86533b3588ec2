/**
 * Who may look at the page: a browser that came by the page's link and has had its cookie since, or
 * a program that shows the mesh's token.
 */
import { createHmac } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { callerOf, type People, reaches, sameToken, tokenDigest } from '@spindle/kit';
import { leastRoleOfPage } from '../server/roles.js';

/** Whose tokens open the page. */
interface Door {
  token: string;
  people?: People | undefined;
}

/**
 * What link and cookie hold. It opens the page alone: browsers send a cookie to every server of
 * this machine, whatever its port, and a terminal's output may be kept.
 */
export function pageKey(token: string): string {
  return keyOf(tokenDigest(token));
}

function keyOf(digest: Buffer): string {
  return createHmac('sha256', digest).update('spindle status page').digest('base64url');
}

/** Is it the key of a token that reaches as far as the page asks? */
function opens(key: string, { token, people }: Door): boolean {
  if (sameToken(key, pageKey(token))) return true;
  const caller = people?.where((digest) => sameToken(key, keyOf(digest)));
  return caller !== undefined && reaches(caller.role, leastRoleOfPage);
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
export function cookieOf(request: IncomingMessage, url: URL, door: Door): string | undefined {
  const given = url.searchParams.get('token');
  if (url.pathname !== '/' || given === null || !opens(given, door)) return undefined;
  const secure = request.socket instanceof TLSSocket ? '; Secure' : '';
  return `${cookieName(request)}=${given}; HttpOnly; SameSite=Strict; Path=/${secure}`;
}

/** Whether the request shows a token, or a cookie of one, that may look at the page. */
export function mayLook(request: IncomingMessage, door: Door): boolean {
  const caller = callerOf(request.headers.authorization, door);
  if (caller !== undefined && reaches(caller.role, leastRoleOfPage)) return true;
  const name = cookieName(request);
  const cookies = (request.headers.cookie ?? '').split(';').map((text) => text.trim());
  return cookies.some(
    (cookie) => cookie.startsWith(`${name}=`) && opens(cookie.slice(name.length + 1), door),
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
