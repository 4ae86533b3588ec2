/** NATS and every service on this machine, as children of this process. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  cancelled,
  checkHealth,
  createLogger,
  delay,
  Lifecycle,
  newToken,
  SpindleError,
} from '@spindle/kit';
import { startNatsServer } from '@spindle/mesh';
import { lockFolder } from '../../orchestrator/folder-lock.js';
import { isAlive, livesHere, ownIdentity, startTime } from '../../orchestrator/process-identity.js';
import { readRuntime, removeRuntime, writeRuntime, type Runtime } from '../runtime.js';
import { ServiceChild } from './child.js';
import { serviceMain } from './packages.js';

export interface MeshOptions {
  artifacts: string;
  samplers: number;
  scorers: number;
  /** 0: every service may use all cores. */
  threads: number;
  /** Processes of the trainer; they share its work. */
  ranks: number;
  /** An existing server to use instead of an own one. */
  natsUrl?: string | undefined;
  /** What the mesh's processes show to each other; without it, a fresh one. */
  token?: string | undefined;
  grpcPort: number;
  httpPort: number;
  logLevel: string;
  environment: NodeJS.ProcessEnv;
  /** Breaks the start off: what was started is stopped, and startMesh throws CANCELLED. */
  signal?: AbortSignal;
  onLine: (name: string, line: string) => void;
  onNotice: (text: string) => void;
}

export interface Mesh {
  runtime: Runtime;
  /** Aborts when another mesh has taken the folder over: this one must stop. */
  lost: AbortSignal;
  stop(): Promise<void>;
}

const natsCheckMs = 500;

type ServiceName = 'trainer' | 'evaluator' | 'sampler' | 'scorer' | 'gateway';

export async function startMesh(options: MeshOptions): Promise<Mesh> {
  const { artifacts, onNotice, token = newToken() } = options;
  const lifecycle = new Lifecycle();
  const signal = AbortSignal.any([lifecycle.signal, ...(options.signal ? [options.signal] : [])]);
  try {
    await mkdir(join(artifacts, 'logs'), { recursive: true, mode: 0o700 });
    const lock = await lockFolder(artifacts, 'mesh', { signal, onWait: onNotice });
    lifecycle.defer('lock', () => lock.release());
    lifecycle.defer('runtime.json', () => removeRuntime(artifacts));
    await clearLeftovers(artifacts, onNotice);
    const children: ServiceChild[] = [];
    const nats =
      options.natsUrl === undefined
        ? await startNats(options, token, lifecycle, () => void save())
        : { url: options.natsUrl, pid: () => 0 };
    const natsUrl = nats.url;
    if (signal.aborted) throw cancelled(signal);
    const runtime: Runtime = {
      pid: process.pid,
      token,
      place: (await ownIdentity()).place,
      natsUrl,
      natsPid: nats.pid(),
      natsStarted: '',
      gateway: '',
      http: '',
      services: [],
    };
    let saving = Promise.resolve();
    const save = (): Promise<void> =>
      (saving = saving
        .then(async () => {
          runtime.natsPid = nats.pid();
          runtime.natsStarted = await startTime(runtime.natsPid);
          runtime.services = await Promise.all(
            children.map(async ({ name, pid, ports }) => ({
              name,
              pid,
              started: await startTime(pid),
              address: `127.0.0.1:${ports[0] ?? 0}`,
            })),
          );
          if (!signal.aborted) await writeRuntime(artifacts, runtime);
        })
        .catch((error: unknown) =>
          onNotice(`runtime.json could not be written: ${String(error)}`),
        ));
    lifecycle.defer('runtime.json is written', () => saving);
    const launch = async (
      service: ServiceName,
      name: string,
      extra: NodeJS.ProcessEnv,
    ): Promise<ServiceChild> => {
      const portFile = join(artifacts, 'logs', `${name}.port`);
      const environment: NodeJS.ProcessEnv = {
        ...options.environment,
        SPINDLE_NATS_URL: natsUrl,
        SPINDLE_TOKEN: token,
        SPINDLE_TOKEN_FILE: '',
        SPINDLE_ARTIFACTS: artifacts,
        // It listens on 127.0.0.1 alone, and in plain. Authorities count for a NATS of others.
        SPINDLE_TLS_CERT: '',
        SPINDLE_TLS_KEY: '',
        SPINDLE_TLS_CLIENT_CA: '',
        SPINDLE_HEALTH_ADDRESS: '',
        SPINDLE_GRPC_ADDRESS: '127.0.0.1:0',
        SPINDLE_PORT_FILE: portFile,
        SPINDLE_WORKER_ID: name,
        SPINDLE_LOG_LEVEL: options.logLevel,
        ...(options.threads > 0 && { SPINDLE_THREADS: String(options.threads) }),
        ...extra,
      };
      const child: ServiceChild = new ServiceChild({
        name,
        main: serviceMain(service),
        environment,
        portFile,
        logFile: join(artifacts, 'logs', `${name}.log`),
        signal,
        onLine: options.onLine,
        onRestart: (who, reason) => onNotice(`${who} ended (${reason}); it is started again`),
        onStart: () => void save(),
      });
      children.push(child);
      lifecycle.defer(name, () => child.stop());
      await child.start();
      // Others hold its address: a restarted process takes the same port again.
      environment['SPINDLE_GRPC_ADDRESS'] = `127.0.0.1:${child.ports[0] ?? 0}`;
      if (child.ports[1] !== undefined)
        environment['SPINDLE_HTTP_ADDRESS'] = `127.0.0.1:${child.ports[1]}`;
      return child;
    };
    const numbered = (service: 'sampler' | 'scorer', count: number) =>
      Promise.all(
        Array.from({ length: count }, (_, i) =>
          launch(service, count === 1 ? service : `${service}-${i + 1}`, {}),
        ),
      );
    const [trainer, evaluator, [sampler], [scorer]] = await Promise.all([
      launch(
        'trainer',
        'trainer',
        options.ranks > 1 ? { SPINDLE_RANKS: String(options.ranks) } : {},
      ),
      launch('evaluator', 'evaluator', {}),
      numbered('sampler', options.samplers),
      numbered('scorer', options.scorers),
    ]);
    const address = (child: ServiceChild | undefined): string =>
      `127.0.0.1:${child?.ports[0] ?? 0}`;
    const gateway = await launch('gateway', 'gateway', {
      SPINDLE_TRAINER_ADDRESS: address(trainer),
      SPINDLE_EVALUATOR_ADDRESS: address(evaluator),
      SPINDLE_SAMPLER_ADDRESS: address(sampler),
      SPINDLE_SCORER_ADDRESS: address(scorer),
      SPINDLE_GRPC_ADDRESS: `127.0.0.1:${options.grpcPort}`,
      SPINDLE_HTTP_ADDRESS: `127.0.0.1:${options.httpPort}`,
    });
    runtime.gateway = address(gateway);
    runtime.http = `http://127.0.0.1:${gateway.ports[1] ?? 0}`;
    if (!(await checkHealth(runtime.gateway, 10_000)))
      throw new SpindleError('UNAVAILABLE', `the gateway at ${runtime.gateway} does not answer.`);
    await save();
    return {
      runtime,
      lost: lock.lost,
      stop: () => lifecycle.shutdown('stop'),
    };
  } catch (error) {
    await lifecycle.shutdown('failed start');
    throw error;
  }
}

/** Restarted on its port and with its data when it ends: every client reconnects by itself. */
async function startNats(
  options: MeshOptions,
  token: string,
  lifecycle: Lifecycle,
  onRestart: () => void,
): Promise<{ url: string; pid: () => number }> {
  const logger = createLogger('nats', { level: 'silent' });
  const dir = join(options.artifacts, 'nats');
  let server = await startNatsServer({ dir, token, logger });
  const { url } = server;
  const port = Number(new URL(url).port);
  const watch = async (): Promise<void> => {
    while (!lifecycle.signal.aborted) {
      await delay(natsCheckMs, lifecycle.signal).catch(() => undefined);
      if (lifecycle.signal.aborted || isAlive(server.pid)) continue;
      options.onNotice('nats-server ended; it is started again');
      server = await startNatsServer({ dir, port, token, logger }).catch((error: unknown) => {
        options.onNotice(`nats-server could not be started: ${String(error)}`);
        return server;
      });
      onRestart();
    }
  };
  void watch();
  lifecycle.defer('nats-server', () => server.stop());
  return { url, pid: () => server.pid };
}

/**
 * Ends what a mesh that was killed left behind; the folder's lock says that its own process is
 * gone.
 */
async function clearLeftovers(artifacts: string, onNotice: (text: string) => void): Promise<void> {
  const old = await readRuntime(artifacts);
  if (!old) return;
  // NATS goes last: the others say goodbye through it.
  const nats = { name: 'nats-server', pid: old.natsPid, started: old.natsStarted };
  for (const { name, pid, started } of [...old.services, nats]) {
    if (!(await isLeftOver(pid, started, old.place))) continue;
    onNotice(`ending ${name} (process ${pid}), which an earlier mesh left behind`);
    process.kill(pid, 'SIGTERM');
    for (let i = 0; i < 100 && isAlive(pid); i++) await delay(100);
    if (isAlive(pid)) process.kill(pid, 'SIGKILL');
  }
  await removeRuntime(artifacts);
}

/**
 * By its start time and where its id means it, since process ids are used again; where either is
 * not known, nothing is ended.
 */
async function isLeftOver(pid: number, started = '', place = ''): Promise<boolean> {
  return pid > 0 && started !== '' && (await livesHere({ pid, started, place })) === true;
}
