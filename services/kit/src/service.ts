import { rm } from 'node:fs/promises';
import { ensureError } from './errors.js';
import { GrpcServer } from './grpc/server.js';
import { Lifecycle } from './lifecycle.js';
import type { Logger } from './logger.js';
import { writeFileAtomic } from './atomic.js';
import { readTransport, type Transport, type TransportVariables } from './tls/transport.js';

/**
 * Runs a process's main function; a failure is one line on stderr, exit code 2 for bad input and 1
 * for the rest.
 */
export async function runService(
  name: string,
  main: (lifecycle: Lifecycle) => Promise<void>,
): Promise<void> {
  // What the mesh writes is for its own user alone.
  process.umask(0o077);
  const lifecycle = new Lifecycle();
  lifecycle.installSignalHandlers();
  endOnStrayFailure(name);
  try {
    await main(lifecycle);
  } catch (thrown) {
    const error = ensureError(thrown);
    // A start that a signal interrupted is no failure.
    if (!lifecycle.signal.aborted) {
      process.stderr.write(`${name}: ${error.message}\n`);
      process.exitCode = error.code === 'INVALID_ARGUMENT' ? 2 : 1;
    }
    await lifecycle.shutdown(error.message);
  }
}

/**
 * A failure that nobody waits for leaves the process in a state that nobody has thought of: it ends
 * with one sentence, and whoever watches it starts it anew.
 */
function endOnStrayFailure(name: string): void {
  const end = (thrown: unknown): void => {
    process.stderr.write(`${name}: unexpected failure: ${ensureError(thrown).message}\n`);
    process.exit(1);
  };
  process.on('unhandledRejection', end);
  process.on('uncaughtException', end);
}

/** What the environment says of connections; renewed certificates are taken up until the end. */
export function openTransport(
  lifecycle: Lifecycle,
  variables: TransportVariables,
  logger: Logger,
): Transport {
  const transport = readTransport(variables);
  if (transport.tls) lifecycle.defer('certificates', transport.tls.watch(logger));
  return transport;
}

export interface ServeOptions {
  address: string;
  /** Where to write the port once calls are taken; removed at shutdown. */
  portFile: string | undefined;
  /** How long calls under way may go on after a shutdown began. */
  graceMs: number;
  logger: Logger;
  /** What callers have to show. */
  token: string | undefined;
  transport?: Transport | undefined;
  /** Where health alone is said in plain; undefined for nowhere. */
  healthAddress?: string | undefined;
  /** Calls its argument whenever the process loses, or has again, what it cannot work without. */
  onReady?: (say: (ready: boolean) => void) => void;
}

/** Listens, says on which port, and stops with the process. */
export async function serve(
  lifecycle: Lifecycle,
  options: ServeOptions,
  register: (server: GrpcServer) => void,
): Promise<number> {
  const { portFile, logger, token, transport, healthAddress } = options;
  const server = new GrpcServer({ logger, token, transport });
  register(server);
  options.onReady?.((ready) => server.setServing('', ready));
  const port = await server.listen(options.address);
  lifecycle.defer('grpc', () => server.shutdown(options.graceMs));
  if (healthAddress !== undefined) await server.listenForHealth(healthAddress);
  if (portFile !== undefined) {
    await writeFileAtomic(portFile, `${port}\n`);
    lifecycle.defer('port file', () => rm(portFile, { force: true }));
  }
  logger.info({ port }, 'serving');
  return port;
}
