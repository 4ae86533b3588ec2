/**
 * The page's three files, read once; everything it needs is in them, so it works without internet.
 */
import { readFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { SpindleError } from '@spindle/kit';

const files: Record<string, { name: string; type: string }> = {
  '/': { name: 'index.html', type: 'text/html; charset=utf-8' },
  '/status.css': { name: 'status.css', type: 'text/css; charset=utf-8' },
  '/status.js': { name: 'status.js', type: 'text/javascript; charset=utf-8' },
  '/charts.js': { name: 'charts.js', type: 'text/javascript; charset=utf-8' },
  '/grid.js': { name: 'grid.js', type: 'text/javascript; charset=utf-8' },
  '/favicon.svg': { name: 'favicon.svg', type: 'image/svg+xml' },
};

export const pagePaths = Object.keys(files);

/** Relative to src/http and dist/http alike. */
const folder = new URL('../../public/', import.meta.url);

export async function servePage(response: ServerResponse, pathname: string): Promise<void> {
  const file = files[pathname];
  if (!file) throw new SpindleError('NOT_FOUND', `${pathname}: there is nothing here.`);
  const body = await readFile(new URL(file.name, folder));
  response.setHeader(
    'Content-Security-Policy',
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
  );
  response.writeHead(200, { 'Content-Type': file.type, 'Cache-Control': 'no-cache' });
  response.end(body);
}
