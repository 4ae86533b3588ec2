/** Every route and method, by those who may not, and by those who may. */
import { request, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http';
import { newToken } from '@spindle/kit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startHarness, type Harness } from '../testing/harness.js';
import { pageKey, pageLink } from './access.js';
import { routes } from './routes.js';

const token = newToken();
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'QUERY'];
const values: Record<string, string> = { run: 'r1', model: 'base', file: '0.png' };
const paths = routes.map(({ path }) =>
  path.replace(/:(\w+)/g, (_, name: string) => values[name] ?? 'unknown'),
);
const every = [...paths, '/nothing', '/api', '/api/runs/r1/../../x'].flatMap((path) =>
  methods.map((method) => ({ path, method })),
);

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, 6, token);
  await harness.create();
  await harness.finished('r1');
});
afterAll(() => harness.stop());

const port = (): number => harness.gateway.httpPort;
const cookie = (): string => `spindle_page_${port()}=${pageKey(token)}`;
const bearer = { authorization: `Bearer ${token}` };

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

/** Ends with the answer's head where the body would go on. */
function ask(path: string, method = 'GET', headers: OutgoingHttpHeaders = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port: port(), path, method, headers }, (response) => {
      const { statusCode: status = 0, headers: got } = response;
      let body = '';
      if (method === 'GET' && got['content-type']?.startsWith('text/event-stream')) {
        sent.destroy();
        resolve({ status, headers: got, body });
      }
      response.setEncoding('utf8').on('data', (text: string) => (body += text));
      response.on('end', () => resolve({ status, headers: got, body }));
      response.on('error', reject);
    });
    sent.on('error', reject);
    sent.end();
  });
}

describe.each(every)('$method $path', ({ path, method }) => {
  it('is refused without the token, with a wrong one, and to pages of other names', async () => {
    for (const headers of [
      {},
      { authorization: `Bearer ${newToken()}` },
      { authorization: `Basic ${token}` },
      { authorization: `Bearer ${pageKey(token)}` },
      { cookie: `spindle_page_${port()}=${newToken()}` },
      { cookie: `spindle_page_${port() + 1}=${pageKey(token)}` },
      { cookie: `spindle_page_${port()}=` },
    ]) {
      const { status, body } = await ask(path, method, headers);
      expect(status).toBe(401);
      if (method !== 'HEAD') expect(body).toMatch(/^This page opens by its link.*spindle page/);
    }
    for (const foreign of [
      { host: 'evil.example' },
      { host: `evil.example:${port()}` },
      { origin: 'http://evil.example' },
      { origin: 'null' },
      { origin: `http://127.0.0.1:${port() + 1}` },
    ]) {
      for (const shown of [bearer, { cookie: cookie() }])
        expect((await ask(path, method, { ...shown, ...foreign })).status).toBe(403);
    }
  });

  it('is answered to the token and to the cookie', async () => {
    for (const shown of [bearer, { cookie: `a=b; ${cookie()}` }]) {
      const { status, headers } = await ask(path, method, shown);
      const read = method === 'GET' || method === 'HEAD';
      expect(status).toBe(!read ? 405 : paths.includes(path) ? 200 : 404);
      expect(headers).toMatchObject({
        'cross-origin-resource-policy': 'same-origin',
        'referrer-policy': 'no-referrer',
        'x-content-type-options': 'nosniff',
      });
      expect(headers['access-control-allow-origin']).toBeUndefined();
    }
  });
});

describe('the link', () => {
  const link = (): string => pageLink(`http://127.0.0.1:${port()}`, token).replace(/^.*:\d+/, '');

  it('gives the browser a cookie that scripts and other sites cannot use, and goes away', async () => {
    const { status, headers, body } = await ask(link());
    expect([status, headers.location]).toEqual([303, '/']);
    expect(headers['set-cookie']).toEqual([`${cookie()}; HttpOnly; SameSite=Strict; Path=/`]);
    expect(headers['cache-control']).toBe('no-store');
    expect(body).not.toContain(pageKey(token));
    expect((await ask('/', 'GET', { cookie: cookie() })).status).toBe(200);
  });

  it('from a page of another site is opened by a step of its own', async () => {
    const { status, headers } = await ask(link(), 'GET', { 'sec-fetch-site': 'cross-site' });
    expect([status, headers.refresh]).toEqual([200, '0; url=/']);
    expect(headers['set-cookie']).toHaveLength(1);
  });

  it('holds a key that is not the token, and no other one opens', async () => {
    expect(link()).not.toContain(token);
    for (const wrong of ['/?token=', `/?token=${newToken()}`, `/?token=${token}`]) {
      const { status, headers } = await ask(wrong);
      expect([status, headers['set-cookie']]).toEqual([401, undefined]);
    }
    expect((await ask(link(), 'POST')).status).toBe(401);
    expect((await ask(link(), 'GET', { host: 'evil.example' })).status).toBe(403);
  });
});
