/** How a client shows a NATS server that it may connect. */
import type { ConnectionOptions } from 'nats';

/** What an address says of a user, or of a token, counts; else the mesh's token is shown. */
export function natsAccess(
  url: string,
  token: string | undefined,
): Pick<ConnectionOptions, 'servers' | 'user' | 'pass' | 'token'> {
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
