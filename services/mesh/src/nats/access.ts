/** How a client shows a NATS server that it may connect. */
import { checkPlainCall, localTransport, type Transport } from '@spindle/kit';
import type { ConnectionOptions, TlsOptions } from 'nats';

type Access = Pick<ConnectionOptions, 'servers' | 'user' | 'pass' | 'token' | 'tls'>;

/**
 * What an address says of a user, or of a token, counts; else the mesh's token is shown. A "tls:"
 * address is encrypted; in plain nothing secret is shown to another machine.
 */
export function natsAccess(
  url: string,
  token: string | undefined,
  transport: Transport = localTransport,
): Access {
  const access = natsSecrets(url, token);
  if (/^tls:/i.test(url)) return { ...access, tls: tlsOptions(transport) };
  const { servers } = access;
  if (Object.keys(access).length > 1)
    checkPlainCall(String(servers), transport, `tls://${String(servers).replace(/^.*:\/\//, '')}`);
  return access;
}

/** Files, so that every connection is made with what they hold then. */
function tlsOptions({ tls }: Transport): TlsOptions {
  const {
    SPINDLE_TLS_CA: caFile,
    SPINDLE_TLS_CERT: certFile,
    SPINDLE_TLS_KEY: keyFile,
  } = tls?.files ?? {};
  return {
    ...(caFile && { caFile }),
    ...(certFile && { certFile }),
    ...(keyFile && { keyFile }),
  };
}

function natsSecrets(url: string, token: string | undefined): Access {
  const servers = withoutSecret(url);
  const { username = '', password = '' } = URL.canParse(url) ? new URL(url) : {};
  const [user, pass] = [decodeURIComponent(username), decodeURIComponent(password)];
  if (pass !== '') return { servers, user, pass };
  const shown = user === '' ? token : user;
  return shown === undefined ? { servers } : { servers, token: shown };
}

/** The address as it may be printed and logged. */
export function withoutSecret(url: string): string {
  return url.replace(/^([a-z+]+:\/\/)[^/@]*@/i, '$1');
}
