/** Real handshakes of gRPC, with certificates that are made here. */
import { SamplerService, type SampleRequest } from '@spindle/proto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { checkHealth, createClient } from '../grpc/client.js';
import { GrpcServer } from '../grpc/server.js';
import type { Logger } from '../logger.js';
import { TestAuthority, writeCertificate } from '../testing/certificates.js';
import { logger } from '../testing/logger.js';
import { newToken } from '../token.js';
import { TlsFiles } from './tls-files.js';
import { readTransport, type Transport, type TransportVariables } from './transport.js';

const folder = mkdtempSync(join(tmpdir(), 'spindle-tls-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const ca = new TestAuthority('ca');
const foreign = new TestAuthority('foreign');
const token = newToken();

let folders = 0;
function files(
  from: TestAuthority,
  trust = from,
  lastsMs?: number,
): ReturnType<typeof writeCertificate> {
  const own = join(folder, String(folders++));
  mkdirSync(own);
  return writeCertificate(own, from.issue('service', lastsMs), trust);
}
const good = files(ca);

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Served {
  port: number;
  server: GrpcServer;
  transport: Transport;
}

async function serve(given: TransportVariables | Transport): Promise<Served> {
  const transport = 'trusted' in given ? given : readTransport(given);
  const server = new GrpcServer({ logger, token, transport });
  server.addService(SamplerService, {
    inspectModel: async () => ({}),
    sample: async (_: SampleRequest) => ({ images: [] }),
    getWorker: async () => ({ workerId: 'w' }),
  });
  const port = await server.listen('127.0.0.1:0');
  cleanups.push(() => server.shutdown(0));
  return { port, server, transport };
}

/** As if the clock had shown this: certificates of our own checks only. */
function atTime<T>(now: number, read: () => T): T {
  vi.useFakeTimers({ toFake: ['Date'], now });
  try {
    return read();
  } finally {
    vi.useRealTimers();
  }
}

/** The worker's name, or why there was none. */
async function call(address: string, given: TransportVariables | Transport): Promise<string> {
  const transport = 'trusted' in given ? given : readTransport(given);
  const client = createClient(SamplerService, address, token, transport);
  try {
    return (await client.getWorker({}, { timeoutMs: 5_000 })).workerId;
  } catch (error) {
    return String(error);
  } finally {
    client.close();
  }
}

describe('a server with a certificate', () => {
  it('is called by who trusts its authority, and by nobody else', async () => {
    const { port } = await serve(good);
    const { SPINDLE_TLS_CA } = good;
    for (const host of ['localhost', '127.0.0.1']) {
      const address = `https://${host}:${port}`;
      expect(await call(address, good)).toBe('w');
      expect(await call(address, { SPINDLE_TLS_CA })).toBe('w');
      // The system's authorities.
      expect(await call(address, {})).toMatch(/UNAVAILABLE|unable to|self.signed/);
      expect(await call(address, files(foreign))).toMatch(/unable to|self.signed/);
    }
    expect(await call(`127.0.0.1:${port}`, good)).not.toBe('w');
    expect(await call(`https://127.0.0.2:${port}`, good)).not.toBe('w');
    expect(await checkHealth(`https://localhost:${port}`, 2_000, '', readTransport(good))).toBe(
      true,
    );
  });

  it('that asks for those of callers takes only what its authority has signed', async () => {
    const clientCa = { SPINDLE_TLS_CLIENT_CA: good.SPINDLE_TLS_CA };
    const { port, server } = await serve({ ...good, ...clientCa });
    const address = `https://localhost:${port}`;
    expect(await call(address, files(ca))).toBe('w');
    const { SPINDLE_TLS_CA } = good;
    expect(await call(address, { SPINDLE_TLS_CA })).not.toBe('w');
    expect(await call(address, files(foreign, ca))).not.toBe('w');
    const probed = await server.listenForHealth('127.0.0.1:0');
    expect(await checkHealth(`127.0.0.1:${probed}`, 2_000, 'live')).toBe(true);
    expect(await call(`127.0.0.1:${probed}`, good)).not.toBe('w');
  });

  it('that has run out is called by nobody, nor takes it one that has run out', async () => {
    const short = files(ca, ca, -60_000);
    const before = atTime(Date.now() - 120_000, () => readTransport(short));
    const clientCa = { SPINDLE_TLS_CLIENT_CA: good.SPINDLE_TLS_CA };
    const [expired, strict] = [await serve(before), await serve({ ...good, ...clientCa })];
    expect(await call(`https://localhost:${expired.port}`, good)).toMatch(
      /certificate has expired/,
    );
    expect(await call(`https://localhost:${strict.port}`, good)).toBe('w');
    expect(await call(`https://localhost:${strict.port}`, before)).not.toBe('w');
    expect(() => TlsFiles.open(short)).toThrow(
      /SPINDLE_TLS_CERT: .*: expected a certificate that is valid, got one until /,
    );
  });

  it('takes up a new one, of another authority too, without a restart', async () => {
    const own = files(ca);
    const clientCa = { SPINDLE_TLS_CLIENT_CA: own.SPINDLE_TLS_CA };
    const { port, transport } = await serve({ ...own, ...clientCa });
    const address = `https://localhost:${port}`;
    const other = files(foreign);
    const lasting = readTransport(files(ca));
    const client = createClient(SamplerService, address, token, lasting);
    cleanups.push(client.close);
    await client.getWorker({});
    expect(await call(address, other)).not.toBe('w');

    writeCertificate(join(own.SPINDLE_TLS_CERT, '..'), foreign.issue('renewed'), foreign);
    expect(await call(address, other)).not.toBe('w');
    transport.tls?.look(logger);
    expect(await call(address, other)).toBe('w');
    expect(await call(address, good)).not.toBe('w');
    // A connection that stands goes on, as it would until the peer restarts.
    await client.getWorker({});

    const { SPINDLE_TLS_CERT } = lasting.tls?.files ?? { SPINDLE_TLS_CERT: '' };
    writeCertificate(join(SPINDLE_TLS_CERT, '..'), foreign.issue('renewed'), foreign);
    lasting.tls?.look(logger);
    const second = createClient(SamplerService, address, token, lasting);
    cleanups.push(second.close);
    expect(await second.getWorker({})).toMatchObject({ workerId: 'w' });
  });
});

describe('files that cannot be used', () => {
  const { SPINDLE_TLS_CERT, SPINDLE_TLS_KEY, SPINDLE_TLS_CA } = good;
  const text = join(folder, 'text');
  writeFileSync(text, 'no certificate');
  const torn = join(folder, 'torn');
  writeFileSync(torn, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  const others = files(ca);

  it.each<[TransportVariables, RegExp]>([
    [{ SPINDLE_TLS_CERT }, /^SPINDLE_TLS_KEY: expected it with SPINDLE_TLS_CERT/],
    [{ SPINDLE_TLS_KEY }, /^SPINDLE_TLS_CERT: expected it with SPINDLE_TLS_KEY/],
    [{ SPINDLE_TLS_CLIENT_CA: SPINDLE_TLS_CA }, /^SPINDLE_TLS_CLIENT_CA: expected it with/],
    [{ SPINDLE_TLS_CA: join(folder, 'none') }, /^SPINDLE_TLS_CA: cannot be read: .*none/],
    [{ SPINDLE_TLS_CA: text }, /^SPINDLE_TLS_CA: .*text: expected certificates in PEM, got none/],
    [{ SPINDLE_TLS_CA: torn }, /^SPINDLE_TLS_CA: .*torn: expected certificates .* cannot be read/],
    [{ SPINDLE_TLS_CERT, SPINDLE_TLS_KEY: text }, /^SPINDLE_TLS_KEY: .*text: expected a private/],
    [
      { SPINDLE_TLS_CERT, SPINDLE_TLS_KEY: others.SPINDLE_TLS_KEY },
      /^SPINDLE_TLS_KEY: expected the key of the certificate in .*tls.crt, got another one in/,
    ],
  ])('are told in one sentence: %o', (variables, sentence) => {
    expect(() => readTransport(variables)).toThrow(sentence);
  });

  it('are told of once and passed over while the process runs', () => {
    const own = files(ca);
    const tls = TlsFiles.open(own);
    const before = tls?.content;
    const told: unknown[] = [];
    let changes = 0;
    const forget = tls?.onChange(() => (changes += 1));
    const log = {
      error: (fields: unknown) => told.push(fields),
      info: () => told.push('renewed'),
    } as unknown as Logger;
    tls?.look(log);
    writeFileSync(own.SPINDLE_TLS_KEY, foreign.issue('x').key);
    tls?.look(log);
    tls?.look(log);
    expect(told).toEqual([{ reason: expect.stringContaining('got another one') as string }]);
    expect(tls?.content).toBe(before);
    const { cert, key } = ca.issue('x');
    writeFileSync(own.SPINDLE_TLS_CERT, cert);
    writeFileSync(own.SPINDLE_TLS_KEY, key);
    tls?.look(log);
    forget?.();
    expect([changes, told.slice(1)]).toEqual([1, ['renewed']]);
    expect(tls?.content.identity?.cert.toString()).toBe(cert);
  });
});
