/** Certificates for tests, made here: node signs them but has no writer of X.509. */
import { generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** A chain of one and its key, in PEM. */
export interface TestCertificate {
  cert: string;
  key: string;
}

/** An authority that signs certificates for this machine. */
export class TestAuthority {
  readonly #key: KeyObject;
  readonly #name: string;
  readonly cert: string;

  constructor(name: string) {
    const { privateKey, publicKey } = pair();
    this.#key = privateKey;
    this.#name = name;
    const isAuthority = extension('551d13', sequence(tlv(0x01, Buffer.of(0xff))), true);
    this.cert = this.#sign(name, publicKey, [isAuthority], day);
  }

  /** Of localhost and 127.0.0.1, until so many milliseconds from now. */
  issue(name: string, lastsMs = day): TestCertificate {
    const { privateKey, publicKey } = pair();
    const names = sequence(tlv(0x82, Buffer.from('localhost')), tlv(0x87, Buffer.of(127, 0, 0, 1)));
    const cert = this.#sign(name, publicKey, [extension('551d11', names, false)], lastsMs);
    return { cert, key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString() };
  }

  #sign(name: string, publicKey: KeyObject, extensions: Buffer[], lastsMs: number): string {
    const algorithm = sequence(oid('2a8648ce3d040302'));
    const end = Date.now() + lastsMs;
    const body = sequence(
      tlv(0xa0, tlv(0x02, Buffer.of(2))),
      tlv(0x02, Buffer.concat([Buffer.of(1), randomBytes(8)])),
      algorithm,
      commonName(this.#name),
      sequence(time(Math.min(Date.now(), end) - day), time(end)),
      commonName(name),
      publicKey.export({ type: 'spki', format: 'der' }),
      tlv(0xa3, sequence(...extensions)),
    );
    const signature = tlv(0x03, Buffer.concat([Buffer.of(0), sign('sha256', body, this.#key)]));
    const base64 = sequence(body, algorithm, signature).toString('base64');
    const lines = base64.match(/.{1,64}/g) ?? [];
    return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
  }
}

/** Writes files as a Secret has them; the variables that name them. */
export function writeCertificate(
  folder: string,
  { cert, key }: TestCertificate,
  ca: TestAuthority,
): { SPINDLE_TLS_CERT: string; SPINDLE_TLS_KEY: string; SPINDLE_TLS_CA: string } {
  const files = {
    SPINDLE_TLS_CERT: join(folder, 'tls.crt'),
    SPINDLE_TLS_KEY: join(folder, 'tls.key'),
    SPINDLE_TLS_CA: join(folder, 'ca.crt'),
  };
  writeFileSync(files.SPINDLE_TLS_CERT, cert);
  writeFileSync(files.SPINDLE_TLS_KEY, key);
  writeFileSync(files.SPINDLE_TLS_CA, ca.cert);
  return files;
}

const day = 86_400_000;

function pair(): { privateKey: KeyObject; publicKey: KeyObject } {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' });
}

/** Tag, length, value of DER. */
function tlv(tag: number, value: Buffer): Buffer {
  const { length } = value;
  const head =
    length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.of(tag, ...head), value]);
}

function sequence(...parts: Buffer[]): Buffer {
  return tlv(0x30, Buffer.concat(parts));
}

function oid(hex: string): Buffer {
  return tlv(0x06, Buffer.from(hex, 'hex'));
}

function commonName(name: string): Buffer {
  return sequence(tlv(0x31, sequence(oid('550403'), tlv(0x0c, Buffer.from(name)))));
}

function extension(id: string, value: Buffer, critical: boolean): Buffer {
  return sequence(oid(id), ...(critical ? [tlv(0x01, Buffer.of(0xff))] : []), tlv(0x04, value));
}

function time(ms: number): Buffer {
  const text = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, '');
  return tlv(0x17, Buffer.from(text.slice(2)));
}
