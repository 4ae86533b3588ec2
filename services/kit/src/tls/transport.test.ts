import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, test } from 'vitest';
import { createClient } from '../grpc/client.js';
import type { Logger } from '../logger.js';
import { SamplerService } from '@spindle/proto';
import { TestAuthority, writeCertificate } from '../testing/certificates.js';
import { newToken } from '../token.js';
import { checkOpenDoor, readTransport, type TransportVariables } from './transport.js';

const folder = mkdtempSync(join(tmpdir(), 'spindle-door-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const ca = new TestAuthority('ca');
const files = writeCertificate(folder, ca.issue('service'), ca);
const { SPINDLE_TLS_CA } = files;
const token = newToken();

/** How often it warned. */
function listen(address: string, variables: TransportVariables, shown?: string): number {
  let warnings = 0;
  const logger = { warn: () => (warnings += 1) } as unknown as Logger;
  checkOpenDoor(address, { token: shown, transport: readTransport(variables) }, logger);
  return warnings;
}

const local = ['127.0.0.1:0', 'localhost:7070', '[::1]:7070', '127.0.0.2:1'];
const open = [
  '0.0.0.0:7070',
  '[::]:7070',
  '10.0.0.5:1',
  'trainer-0:7070',
  '127.0.0.1.evil.example:1',
];
const trusted = { SPINDLE_TRUSTED_NETWORK: '1' };

describe('who may listen where', () => {
  it.each(local)('on %s everybody, and says that it is open without a token', (address) => {
    for (const variables of [{}, files, trusted]) {
      expect(listen(address, variables)).toBe(1);
      expect(listen(address, variables, token)).toBe(0);
    }
  });

  it.each(open)('on %s who has a token, and certificates or a trusted network', (address) => {
    for (const variables of [{}, files, trusted])
      expect(() => listen(address, variables)).toThrow(/expected SPINDLE_TOKEN or/);
    for (const variables of [
      {},
      { SPINDLE_TLS_CA },
      { SPINDLE_TRUSTED_NETWORK: '0' },
      { SPINDLE_TRUSTED_NETWORK: '' },
    ])
      expect(() => listen(address, variables, token)).toThrow(
        /expected SPINDLE_TLS_CERT and SPINDLE_TLS_KEY .*SPINDLE_TRUSTED_NETWORK=1/,
      );
    for (const variables of [files, trusted, { ...files, ...trusted }])
      expect(listen(address, variables, token)).toBe(0);
  });

  it('takes no half word for a trusted network', () => {
    for (const word of ['true', 'yes', '2'])
      expect(() => readTransport({ SPINDLE_TRUSTED_NETWORK: word })).toThrow(
        `SPINDLE_TRUSTED_NETWORK: expected 1 or 0, got "${word}"`,
      );
  });
});

test('a client shows no token to another machine in plain', () => {
  const call = (address: string, variables: TransportVariables, shown?: string): void =>
    createClient(SamplerService, address, shown, readTransport(variables)).close();
  for (const address of open) {
    for (const variables of [{}, files])
      expect(() => call(address, variables, token)).toThrow(/expected https:\/\/.*in plain/);
    call(address, {});
    call(address, trusted, token);
    call(`https://${address}`, {}, token);
  }
  for (const address of local) call(address, {}, token);
});
