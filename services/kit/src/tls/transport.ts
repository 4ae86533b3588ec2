/** How connections are kept from those who listen on the network. */
import { SpindleError } from '../errors.js';
import type { Logger } from '../logger.js';
import { TlsFiles, type TlsVariables } from './tls-files.js';

/** What a process's connections are made with. */
export interface Transport {
  /** Undefined where there are no certificates. */
  tls: TlsFiles | undefined;
  /** Somebody has said that nobody else listens on the network: plain connections will do. */
  trusted: boolean;
}

export interface TransportVariables extends TlsVariables {
  SPINDLE_TRUSTED_NETWORK?: string | undefined;
}

/** Plain connections within this machine. */
export const localTransport: Transport = { tls: undefined, trusted: false };

/** What the variables say; INVALID_ARGUMENT names the one that cannot be used. */
export function readTransport(variables: TransportVariables): Transport {
  const { SPINDLE_TRUSTED_NETWORK: trusted = '' } = variables;
  if (trusted !== '' && trusted !== '0' && trusted !== '1')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `SPINDLE_TRUSTED_NETWORK: expected 1 or 0, got "${trusted}".`,
    );
  return { tls: TlsFiles.open(variables), trusted: trusted === '1' };
}

/** Names and addresses that no other machine has. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, '');
  return name === 'localhost' || name === '::1' || /^127(\.\d{1,3}){3}$/.test(name);
}

/** Of "host:port", with or without a scheme before it. */
export function hostOf(address: string): string {
  return address.replace(/^[a-z]+:\/\//, '').replace(/:\d+$/, '');
}

/**
 * Who may listen where: on an address that others than this machine reach, only with a token, and
 * with certificates or on a network that is trusted. A server without a token says so once.
 */
export function checkOpenDoor(
  address: string,
  door: { token: string | undefined; transport: Transport },
  logger: Logger,
): void {
  const { token, transport } = door;
  if (isLoopback(hostOf(address))) {
    if (token === undefined)
      logger.warn(
        { address },
        'SPINDLE_TOKEN is not set: every user of this machine can use this process',
      );
    return;
  }
  if (token === undefined)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${address}: expected SPINDLE_TOKEN or SPINDLE_TOKEN_FILE where others than this machine ` +
        'can connect, got neither; set the same token for all processes of the mesh.',
    );
  if (transport.tls?.content.identity === undefined && !transport.trusted)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${address}: expected SPINDLE_TLS_CERT and SPINDLE_TLS_KEY where others than this machine ` +
        'can connect, got neither; SPINDLE_TRUSTED_NETWORK=1 says that nobody listens on this ' +
        'network.',
    );
}

/** A secret is sent to another machine only where nobody can read it on the way. */
export function checkPlainCall(address: string, transport: Transport, encrypted: string): void {
  if (transport.trusted || isLoopback(hostOf(address))) return;
  throw new SpindleError(
    'INVALID_ARGUMENT',
    `${address}: expected ${encrypted}, got an address in plain, and a token for it; ` +
      'SPINDLE_TRUSTED_NETWORK=1 says that nobody listens on this network.',
  );
}
