/** Certificates as they stand in files, which somebody renews while the process runs. */
import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ensureError, SpindleError } from '../errors.js';
import type { Logger } from '../logger.js';

/** A renewed Secret is in its folder within a minute or so; this adds little to that. */
const lookMs = 10_000;

export interface TlsVariables {
  /** Chain of this process, the leaf first, for servers and clients alike. */
  SPINDLE_TLS_CERT?: string | undefined;
  SPINDLE_TLS_KEY?: string | undefined;
  /** Whom this process trusts as a client; without it, the system's authorities. */
  SPINDLE_TLS_CA?: string | undefined;
  /** Whose certificates callers of gRPC have to show; without it, they need none. */
  SPINDLE_TLS_CLIENT_CA?: string | undefined;
}

/** A chain and its key, in PEM. */
export interface TlsIdentity {
  cert: Buffer;
  key: Buffer;
}

/** What the files hold. */
export interface TlsContent {
  identity: TlsIdentity | undefined;
  ca: Buffer | undefined;
  clientCa: Buffer | undefined;
}

type Names = Readonly<Record<keyof TlsVariables, string>>;

/**
 * What the files held when they were last whole: what cannot be used is refused at the start, and
 * told of and passed over later on.
 */
export class TlsFiles {
  /** Paths, empty where there is none. */
  readonly files: Names;
  #content: TlsContent;
  #told = '';
  readonly #listeners = new Set<() => void>();

  private constructor(files: Names) {
    this.files = files;
    this.#content = readContent(files);
  }

  /** Undefined where no variable is set; INVALID_ARGUMENT names what cannot be used. */
  static open(variables: TlsVariables): TlsFiles | undefined {
    const files = {
      SPINDLE_TLS_CERT: variables.SPINDLE_TLS_CERT ?? '',
      SPINDLE_TLS_KEY: variables.SPINDLE_TLS_KEY ?? '',
      SPINDLE_TLS_CA: variables.SPINDLE_TLS_CA ?? '',
      SPINDLE_TLS_CLIENT_CA: variables.SPINDLE_TLS_CLIENT_CA ?? '',
    };
    return Object.values(files).every((file) => file === '') ? undefined : new TlsFiles(files);
  }

  get content(): TlsContent {
    return this.#content;
  }

  /** Calls `fn` after every change; the answer ends that. */
  onChange(fn: () => void): () => void {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  }

  /** Looks at the files every ten seconds; the answer ends that. */
  watch(logger: Logger): () => void {
    const timer = setInterval(() => this.look(logger), lookMs);
    timer.unref();
    return () => clearInterval(timer);
  }

  /** Takes up what is new in the files. Connections that stand keep what they were made with. */
  look(logger: Logger): void {
    let content: TlsContent;
    try {
      content = readContent(this.files);
    } catch (thrown) {
      const { message } = ensureError(thrown);
      if (message !== this.#told)
        logger.error({ reason: message }, 'certificates stay those of before');
      this.#told = message;
      return;
    }
    this.#told = '';
    if (sameContent(content, this.#content)) return;
    this.#content = content;
    logger.info('certificates were renewed');
    for (const listener of this.#listeners) listener();
  }
}

function readContent(files: Names): TlsContent {
  const identity = readIdentity(files);
  if (identity === undefined && files.SPINDLE_TLS_CLIENT_CA !== '')
    throw invalid('SPINDLE_TLS_CLIENT_CA: expected it with SPINDLE_TLS_CERT, got it alone.');
  return {
    identity,
    ca: readAuthorities(files, 'SPINDLE_TLS_CA'),
    clientCa: readAuthorities(files, 'SPINDLE_TLS_CLIENT_CA'),
  };
}

function readIdentity(files: Names): TlsIdentity | undefined {
  const { SPINDLE_TLS_CERT: certFile, SPINDLE_TLS_KEY: keyFile } = files;
  if (certFile === '' && keyFile === '') return undefined;
  if (certFile === '' || keyFile === '') {
    const [one, other] = ['SPINDLE_TLS_CERT', 'SPINDLE_TLS_KEY'];
    const [given, missing] = certFile === '' ? [other, one] : [one, other];
    throw invalid(`${missing}: expected it with ${given}, got ${given} alone.`);
  }
  const cert = read(files, 'SPINDLE_TLS_CERT');
  const key = read(files, 'SPINDLE_TLS_KEY');
  const [leaf] = certificates(cert, `SPINDLE_TLS_CERT: ${certFile}`, 'first');
  try {
    const owned = createPublicKey(createPrivateKey(key));
    if (!owned.equals(leaf.publicKey))
      throw invalid(
        `SPINDLE_TLS_KEY: expected the key of the certificate in ${certFile}, got another one ` +
          `in ${keyFile}; both come from one Secret.`,
      );
  } catch (cause) {
    if (cause instanceof SpindleError) throw cause;
    throw invalid(
      `SPINDLE_TLS_KEY: ${keyFile}: expected a private key in PEM without a passphrase, got what ` +
        'cannot be read as one.',
      cause,
    );
  }
  return { cert, key };
}

function readAuthorities(
  files: Names,
  name: 'SPINDLE_TLS_CA' | 'SPINDLE_TLS_CLIENT_CA',
): Buffer | undefined {
  if (files[name] === '') return undefined;
  const pem = read(files, name);
  certificates(pem, `${name}: ${files[name]}`, 'any');
  return pem;
}

/** At least one; `oneOf` them is in its time: the first, or any. */
function certificates(
  pem: Buffer,
  where: string,
  oneOf: 'first' | 'any',
): [X509Certificate, ...X509Certificate[]] {
  const blocks = pem
    .toString('latin1')
    .match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);
  let found: X509Certificate[];
  try {
    found = (blocks ?? []).map((block) => new X509Certificate(block));
  } catch (cause) {
    throw invalid(`${where}: expected certificates in PEM, got one that cannot be read.`, cause);
  }
  const [first, ...others] = found;
  if (first === undefined) throw invalid(`${where}: expected certificates in PEM, got none.`);
  const now = Date.now();
  const inTime = ({ validFrom, validTo }: X509Certificate): boolean =>
    Date.parse(validFrom) <= now && now <= Date.parse(validTo);
  if (oneOf === 'any' && found.some(inTime)) return [first, ...others];
  if (Date.parse(first.validTo) < now)
    throw invalid(
      `${where}: expected a certificate that is valid, got one until ${first.validTo}.`,
    );
  if (Date.parse(first.validFrom) > now)
    throw invalid(
      `${where}: expected a certificate that is valid, got one from ${first.validFrom} on; is ` +
        'the clock of this machine right?',
    );
  return [first, ...others];
}

function read(files: Names, name: keyof TlsVariables): Buffer {
  try {
    return readFileSync(files[name]);
  } catch (cause) {
    throw invalid(`${name}: cannot be read: ${ensureError(cause).message}`, cause);
  }
}

function sameContent(a: TlsContent, b: TlsContent): boolean {
  const same = (one: Buffer | undefined, other: Buffer | undefined): boolean =>
    one === undefined || other === undefined ? one === other : one.equals(other);
  return (
    same(a.identity?.cert, b.identity?.cert) &&
    same(a.identity?.key, b.identity?.key) &&
    same(a.ca, b.ca) &&
    same(a.clientCa, b.clientCa)
  );
}

function invalid(message: string, cause?: unknown): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', message, { cause });
}
