/** Certificates of gRPC connections, taken up anew whenever their files change. */
import {
  CallCredentials,
  ChannelCredentials,
  ServerCredentials,
  type experimental,
} from '@grpc/grpc-js';
import type { SecureContextOptions } from 'node:tls';
import { checkPlainCall, type Transport } from '../tls/transport.js';
import type { TlsFiles, TlsIdentity } from '../tls/tls-files.js';

/** Every handshake of a server is made with what its files hold then. */
class RenewedServerCredentials extends ServerCredentials {
  constructor(tls: TlsFiles, identity: TlsIdentity) {
    const { clientCa } = tls.content;
    const asks = clientCa !== undefined;
    super({ requestCert: asks, rejectUnauthorized: asks }, contextOf(identity, clientCa));
    tls.onChange(() => {
      const content = tls.content;
      if (content.identity)
        this.updateSecureContextOptions(contextOf(content.identity, content.clientCa));
    });
  }

  _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}

function contextOf({ cert, key }: TlsIdentity, clientCa: Buffer | undefined): SecureContextOptions {
  return { cert, key, ...(clientCa && { ca: clientCa }), minVersion: 'TLSv1.2' };
}

/** Every connection of a client is made with what its files hold then. */
class RenewedChannelCredentials extends ChannelCredentials {
  readonly #tls: TlsFiles | undefined;

  constructor(tls: TlsFiles | undefined) {
    super();
    this.#tls = tls;
  }

  override compose(): ChannelCredentials {
    throw new Error('the token is metadata of each call');
  }

  _isSecure(): boolean {
    return true;
  }

  _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  _createSecureConnector(
    ...[target, options, call = CallCredentials.createEmpty()]: Parameters<
      ChannelCredentials['_createSecureConnector']
    >
  ): experimental.SecureConnector {
    return {
      connect: (socket) => {
        const { ca, identity } = this.#tls?.content ?? {};
        const { key, cert } = identity ?? {};
        return ChannelCredentials.createSsl(ca, key, cert)
          ._createSecureConnector(target, options, call)
          .connect(socket);
      },
      waitForReady: async () => undefined,
      getCallCredentials: () => call,
      destroy: () => undefined,
    };
  }
}

/** Plain where there is no certificate. */
export function serverCredentials({ tls }: Transport): ServerCredentials {
  const identity = tls?.content.identity;
  return tls && identity
    ? new RenewedServerCredentials(tls, identity)
    : ServerCredentials.createInsecure();
}

/**
 * What "https://host:port" or "host:port" is called with: the first is encrypted, and the server
 * has to show a certificate of that host; the second is not, and shows no token to other machines.
 */
export function channelTo(
  address: string,
  token: string | undefined,
  transport: Transport,
): { target: string; credentials: ChannelCredentials } {
  const target = /^https:\/\/(.*)$/.exec(address)?.[1]?.replace(/\/$/, '');
  if (target !== undefined)
    return { target, credentials: new RenewedChannelCredentials(transport.tls) };
  if (token !== undefined) checkPlainCall(address, transport, `https://${address}`);
  return { target: address, credentials: ChannelCredentials.createInsecure() };
}
