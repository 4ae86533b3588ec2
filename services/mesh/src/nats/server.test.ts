import { mkdirSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { newToken, readTransport, type Transport } from '@spindle/kit';
import { logger, TestAuthority, writeCertificate } from '@spindle/kit/testing';
import { natsAccess } from './access.js';
import { connectBus } from './connect.js';
import { findNatsServer } from './find.js';
import { startNatsServer } from './server.js';

type TransportVariables = Parameters<typeof readTransport>[0];

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'spindle-nats-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

test('a server on this machine is found with its version', () => {
  expect(findNatsServer()).toMatchObject({
    path: expect.stringMatching(/nats-server$/) as string,
    version: expect.stringMatching(/^\d+\.\d+\.\d+/) as string,
  });
});

test('a port in use is one clear sentence, and the first server is not disturbed', async () => {
  const first = await startNatsServer({ dir: join(dir, 'a'), logger });
  const port = Number(new URL(first.url).port);
  await expect(startNatsServer({ dir: join(dir, 'b'), port, logger })).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringMatching(
      new RegExp(`did not start on port ${port}: .*address already in use`),
    ) as string,
  });
  process.kill(first.pid, 0);
  await first.stop();
  expect(() => process.kill(first.pid, 0)).toThrow(/ESRCH/);
});

test('with a token nobody else gets in, only its own user reads it, and nothing else listens', async () => {
  const token = newToken();
  const server = await startNatsServer({ dir, token, logger });
  try {
    const config = join(dir, 'nats-server.conf');
    expect((await stat(config)).mode & 0o777).toBe(0o600);
    const [ports] = (await readdir(dir)).filter((name) => name.endsWith('.ports'));
    expect(JSON.parse(await readFile(join(dir, ports ?? ''), 'utf8'))).toEqual({
      nats: [server.url],
    });
    for (const wrong of [undefined, newToken()])
      await expect(
        connectBus({ url: server.url, token: wrong, name: 'x', logger }),
      ).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
    const bus = await connectBus({ url: server.url, token, name: 'x', logger });
    await bus.close();
  } finally {
    await server.stop();
  }
});

test('over TLS it lets in who has a certificate, trusts its own and shows the token', async () => {
  const [ca, foreign] = [new TestAuthority('ca'), new TestAuthority('foreign')];
  const files = (name: string, from: TestAuthority, trust = ca): TransportVariables => {
    mkdirSync(join(dir, name));
    return writeCertificate(join(dir, name), from.issue(name), trust);
  };
  const own = writeCertificate(dir, ca.issue('nats'), ca);
  const token = newToken();
  const server = await startNatsServer({
    dir,
    token,
    logger,
    tls: { cert: own.SPINDLE_TLS_CERT, key: own.SPINDLE_TLS_KEY, ca: own.SPINDLE_TLS_CA },
  });
  const url = `tls://localhost:${new URL(server.url).port}`;
  const client = files('client', ca);
  const connected = async (given: TransportVariables | Transport, to = url): Promise<string> => {
    const transport = 'trusted' in given ? given : readTransport(given);
    try {
      const bus = await connectBus({ url: to, token, transport, name: 'x', logger });
      await bus.close();
      return 'connected';
    } catch (error) {
      return String(error);
    }
  };
  try {
    expect(await connected(client)).toBe('connected');
    expect(await connected({})).toMatch(/over TLS: .*(unable|self.signed)/);
    expect(await connected(files('deceived', ca, foreign))).toMatch(/over TLS: .*unable/);
    expect(await connected(client, url.replace('tls:', 'nats:'))).not.toBe('connected');
    const stranger = readTransport(files('stranger', foreign));
    // Each waits for an answer that the server does not give.
    const refused = [stranger, { SPINDLE_TLS_CA: own.SPINDLE_TLS_CA }];
    for (const said of await Promise.all(refused.map((given) => connected(given))))
      expect(said).toMatch(/over TLS/);
    // Renewed files count from the next connection on.
    writeCertificate(join(dir, 'stranger'), ca.issue('renewed'), ca);
    expect(await connected(stranger)).toBe('connected');
  } finally {
    await server.stop();
  }
  const plain = await startNatsServer({ dir, token, logger });
  try {
    expect(await connected(client, plain.url.replace('nats:', 'tls:'))).toMatch(/over TLS/);
  } finally {
    await plain.stop();
  }
});

test.each([
  ['nats://h:1', 't', { servers: 'nats://h:1', token: 't' }],
  ['nats://h:1', undefined, { servers: 'nats://h:1' }],
  ['nats://own@h:1', 't', { servers: 'nats://h:1', token: 'own' }],
  ['nats://me:p%40ss@h:1', 't', { servers: 'nats://h:1', user: 'me', pass: 'p@ss' }],
  ['h:1', 't', { servers: 'h:1', token: 't' }],
])('a client of %s with the token %s shows what the address says first', (url, token, access) => {
  const trusted = { tls: undefined, trusted: true };
  expect(natsAccess(url, token, trusted)).toEqual(access);
  const encrypted = url.replace(/^(nats:\/\/)?/, 'tls://');
  const servers = 'tls://h:1';
  expect(natsAccess(encrypted, token)).toEqual({ ...access, servers, tls: {} });
  if (Object.keys(access).length === 1) expect(natsAccess(url, token)).toEqual(access);
  else expect(() => natsAccess(url, token)).toThrow(/h:1: expected tls:\/\/h:1, got .* in plain/);
});

test('a binary that is not one is named', async () => {
  await expect(
    startNatsServer({ dir, binary: '/no/such/nats-server', logger }),
  ).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringContaining('/no/such/nats-server') as string,
  });
});
