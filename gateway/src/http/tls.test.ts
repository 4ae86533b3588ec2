/** The page over TLS: the files' certificate, renewed ones too, and a cookie for TLS alone. */
import { request, type RequestOptions } from 'node:https';
import type { IncomingHttpHeaders } from 'node:http';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newToken, readTransport } from '@spindle/kit';
import { TestAuthority, writeCertificate } from '@spindle/kit/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { quiet } from '../testing/harness.js';
import { pageKey, pageLink } from './access.js';
import { startHttp } from './server.js';

const folder = mkdtempSync(join(tmpdir(), 'spindle-page-'));
const [ca, next] = [new TestAuthority('ca'), new TestAuthority('next')];
const token = newToken();
const transport = readTransport(writeCertificate(folder, ca.issue('page'), ca));
let page: Awaited<ReturnType<typeof startHttp>>;
beforeAll(async () => {
  // None of these is asked for the page itself.
  const behind = {} as Pick<Parameters<typeof startHttp>[0], 'orchestrator' | 'api' | 'bus'>;
  page = await startHttp({ address: '127.0.0.1:0', token, transport, logger: quiet, ...behind });
});
afterAll(async () => {
  await page.stop();
  rmSync(folder, { recursive: true, force: true });
});

function ask(
  path: string,
  options: RequestOptions,
): Promise<{ status: number | undefined; headers: IncomingHttpHeaders }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      { host: 'localhost', port: page.port, path, agent: false, ...options },
      (response) => {
        response.resume();
        resolve({ status: response.statusCode, headers: response.headers });
      },
    );
    sent.on('error', reject);
    sent.end();
  });
}

it('is opened by its link to who trusts its authority, and keeps a cookie for TLS alone', async () => {
  const link = pageLink(`https://localhost:${page.port}`, token).replace(/^.*:\d+/, '');
  const entered = await ask(link, { ca: ca.cert });
  expect([entered.status, entered.headers['set-cookie']]).toEqual([
    303,
    [`spindle_page_${page.port}=${pageKey(token)}; HttpOnly; SameSite=Strict; Path=/; Secure`],
  ]);
  const authorization = `Bearer ${token}`;
  expect(await ask('/', { ca: ca.cert, headers: { authorization } })).toMatchObject({
    status: 200,
  });
  expect(await ask('/', { ca: ca.cert })).toMatchObject({ status: 401 });
  for (const stranger of [{}, { ca: next.cert }])
    await expect(ask('/', stranger)).rejects.toThrow(/certificate/);
  await expect(ask('/', { ca: ca.cert, maxVersion: 'TLSv1.1' })).rejects.toThrow();
  await expect(fetch(`http://localhost:${page.port}/`)).rejects.toThrow();
});

it('takes up a renewed certificate without a restart', async () => {
  writeCertificate(folder, next.issue('page'), next);
  await expect(ask('/', { ca: next.cert })).rejects.toThrow(/certificate/);
  transport.tls?.look(quiet);
  expect(await ask('/', { ca: next.cert })).toMatchObject({ status: 401 });
  await expect(ask('/', { ca: ca.cert })).rejects.toThrow(/certificate/);
});
