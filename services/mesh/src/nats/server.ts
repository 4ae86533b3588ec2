import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, readFile, readdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { ensureError, SpindleError, delay, type Logger, writeFileAtomic } from '@spindle/kit';
import { connect, type ConnectionOptions } from 'nats';
import { findNatsServer } from './find.js';
import { inboxPrefix, usersConfig, type NatsService } from './permissions.js';

const startMs = 20_000;
const stopMs = 10_000;

export interface NatsServer {
  url: string;
  pid: number;
  stop(): Promise<void>;
}

/**
 * A nats-server with JetStream on 127.0.0.1, its data below `dir`; ready when this returns. Port 0
 * (default) takes a free one. With a token nobody connects who does not show it; with `users` only
 * the mesh's services do, each for its part.
 */
export async function startNatsServer(options: {
  dir: string;
  port?: number;
  token?: string | undefined;
  /** The password of each service, which is then a user with rules of its own. */
  users?: ((service: NatsService) => string) | undefined;
  /** Files in PEM: clients have to come over TLS, with a certificate that `ca` has signed. */
  tls?: { cert: string; key: string; ca: string } | undefined;
  logger: Logger;
  binary?: string;
}): Promise<NatsServer> {
  const { port = 0, token, users, tls, logger } = options;
  const dir = resolve(options.dir);
  const binary = options.binary ?? findNatsServer()?.path;
  if (binary === undefined) {
    throw new SpindleError(
      'FAILED_PRECONDITION',
      'no nats-server was found on PATH; install one with "sudo apt-get install nats-server"',
    );
  }
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await removePortsFiles(dir);
  const config = join(dir, 'nats-server.conf');
  const doors = [
    users ? usersConfig((service) => JSON.stringify(users(service))) : tokenConfig(token),
    tls ? tlsConfig(tls) : '',
  ];
  await writeFileAtomic(config, configText(dir, port, doors), { mode: 0o600 });
  // A process group of its own: Ctrl-C on a terminal must reach the services first, and the server
  // last.
  const child = spawn(binary, ['--config', config], { stdio: 'ignore', detached: true });
  const exited = new Promise<void>((done) => {
    child.once('exit', () => done());
    child.once('error', () => done());
  });
  try {
    const asks: ConnectionOptions = {
      ...(users
        ? { user: 'gateway', pass: users('gateway'), inboxPrefix: inboxPrefix('gateway') }
        : token !== undefined && { token }),
      ...(tls && { tls: { certFile: tls.cert, keyFile: tls.key, caFile: tls.ca } }),
    };
    const url = await ready(child, dir, (address) => answers(address, asks));
    logger.info({ url, pid: child.pid, binary }, 'nats-server is ready');
    return { url, pid: child.pid ?? 0, stop: () => stop(child, exited, dir) };
  } catch (error) {
    await stop(child, exited, dir);
    const log = lastFailure(await readFile(logFile(dir), 'utf8').catch(() => ''));
    const where = port === 0 ? '' : ` on port ${port}`;
    throw new SpindleError(
      'FAILED_PRECONDITION',
      `nats-server (${binary}) did not start${where}: ${log ?? ensureError(error).message}`,
      {
        cause: error,
      },
    );
  }
}

/** No monitoring port: it has no password, and web pages can read it. */
function configText(dir: string, port: number, doors: readonly string[]): string {
  return [
    `listen: "127.0.0.1:${port === 0 ? -1 : port}"`,
    ...doors,
    // The server writes the ports it got there; choosing a free one beforehand would race with
    // other programs.
    `ports_file_dir: ${JSON.stringify(dir)}`,
    `log_file: ${JSON.stringify(logFile(dir))}`,
    'max_payload: 8MB',
    `jetstream { store_dir: ${JSON.stringify(join(dir, 'jetstream'))} }`,
    '',
  ].join('\n');
}

function tlsConfig({ cert, key, ca }: { cert: string; key: string; ca: string }): string {
  const [certFile, keyFile, caFile] = [cert, key, ca].map((file) => JSON.stringify(file));
  return `tls { cert_file: ${certFile}, key_file: ${keyFile}, ca_file: ${caFile}, verify: true }`;
}

function tokenConfig(token: string | undefined): string {
  return token === undefined ? '' : `authorization { token: ${JSON.stringify(token)} }`;
}

async function ready(
  child: ChildProcess,
  dir: string,
  answers: (url: string) => Promise<boolean>,
): Promise<string> {
  let failure: Error | undefined;
  child.once('error', (error) => (failure = error));
  const until = performance.now() + startMs;
  while (performance.now() < until) {
    if (failure) throw failure;
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`it ended with ${child.signalCode ?? child.exitCode}`);
    const url = await readUrl(dir);
    if (url !== undefined && (await answers(url))) return url;
    await delay(25);
  }
  throw new Error(`it was not ready after ${startMs / 1000} s`);
}

async function readUrl(dir: string): Promise<string | undefined> {
  for (const name of await portsFiles(dir)) {
    try {
      const ports = JSON.parse(await readFile(join(dir, name), 'utf8')) as { nats?: string[] };
      const [url] = ports.nats ?? [];
      if (url !== undefined) return url;
    } catch {
      // Half written; the next look finds it whole.
    }
  }
  return undefined;
}

/** Whether clients are let in and JetStream is there. */
async function answers(url: string, options: ConnectionOptions): Promise<boolean> {
  try {
    const client = await connect({
      ...options,
      servers: url,
      timeout: 1_000,
      reconnect: false,
    });
    try {
      await client.jetstreamManager({ checkAPI: true, timeout: 1_000 });
      return true;
    } finally {
      await client.close();
    }
  } catch {
    return false;
  }
}

async function stop(child: ChildProcess, exited: Promise<void>, dir: string): Promise<void> {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
    await exited;
    clearTimeout(timer);
  }
  await removePortsFiles(dir);
}

async function portsFiles(dir: string): Promise<string[]> {
  return (await readdir(dir)).filter((name) => name.endsWith('.ports'));
}

/** A server that was killed leaves its file behind, with ports that are no longer its own. */
async function removePortsFiles(dir: string): Promise<void> {
  for (const name of await portsFiles(dir)) await rm(join(dir, name), { force: true });
}

/** The server's own last word, without its time and process id. */
function lastFailure(log: string): string | undefined {
  return log
    .match(/\[(?:FTL|ERR)\] .*/g)
    ?.at(-1)
    ?.slice('[FTL] '.length);
}

function logFile(dir: string): string {
  return join(dir, 'nats-server.log');
}
