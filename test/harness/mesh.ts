import {
  checkHealth,
  createClient,
  createLogger,
  localTransport,
  newToken,
  readTransport,
  type ServiceClient,
  type Transport,
} from '@spindle/kit';
import { connectBus, startNatsServer, type NatsServer } from '@spindle/mesh';
import { RunService, RunStatus, type Run } from '@spindle/proto';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NodeChild, root } from './child.js';
import { cli, type CliResult } from './cli.js';
import { freePorts } from './ports.js';
import { until } from './wait.js';

const logger = createLogger('harness', { level: 'silent', pretty: false });
const startMs = 60_000;
/**
 * Shorter than in production, so that a killed worker's job comes back soon; longer than the
 * workers' signs of life.
 */
const ackWaitMs = 6_000;
const final = [RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED];

const programs = {
  gateway: 'gateway/dist/main.js',
  sampler: 'services/sampler/dist/main.js',
  scorer: 'services/scorer/dist/main.js',
  trainer: 'services/trainer/dist/main.js',
  evaluator: 'services/evaluator/dist/main.js',
} as const;
export type ServiceKind = keyof typeof programs;
const order: readonly ServiceKind[] = ['sampler', 'scorer', 'trainer', 'evaluator', 'gateway'];

interface Member {
  kind: ServiceKind;
  address: string;
  env: Record<string, string>;
  child: NodeChild;
}

type Certificates = Record<'SPINDLE_TLS_CERT' | 'SPINDLE_TLS_KEY' | 'SPINDLE_TLS_CA', string>;

export interface MeshOptions {
  /** Samplers beside the first one come with `join`. */
  env?: Partial<Record<ServiceKind, Record<string, string>>>;
  /** Ranks of the trainer, each a process of its own; those above 0 come with `join`. */
  worldSize?: number;
  /**
   * Files of every process: all connections are over TLS then, callers of services show
   * certificates too, and each service is a user of NATS with rules of its own.
   */
  certificates?: Certificates;
  /** Where artifacts go; default: a temporary folder that goes with the mesh. */
  artifacts?: string;
}

/**
 * A whole mesh of real processes on free ports, whose members can be killed and come back where
 * they were.
 */
export class Mesh {
  readonly #members = new Map<string, Member>();
  #nats: NatsServer | undefined;
  #client: ServiceClient<typeof RunService> | undefined;
  readonly #dir: string;
  readonly token = newToken();
  httpPort = 0;
  readonly #certificates: Certificates | undefined;

  private constructor(
    dir: string,
    readonly artifacts: string,
    certificates: Certificates | undefined,
  ) {
    this.#certificates = certificates;
    this.#dir = dir;
  }

  static async start(options: MeshOptions = {}): Promise<Mesh> {
    const dir = await mkdtemp(join(tmpdir(), 'spindle-mesh-'));
    const mesh = new Mesh(dir, options.artifacts ?? join(dir, 'artifacts'), options.certificates);
    try {
      await mesh.#start(options);
    } catch (error) {
      await mesh.stop();
      throw error;
    }
    return mesh;
  }

  async #start(options: MeshOptions): Promise<void> {
    await mkdir(this.artifacts, { recursive: true });
    await this.#startNats();
    const ports = await freePorts(order.length + 1);
    const addresses = Object.fromEntries(
      order.map((kind, i) => [kind, `127.0.0.1:${ports[i]}`]),
    ) as Record<ServiceKind, string>;
    this.httpPort = ports[order.length] ?? 0;
    const gatewayOnly = {
      SPINDLE_TRAINER_ADDRESS: this.#called(addresses.trainer),
      SPINDLE_EVALUATOR_ADDRESS: this.#called(addresses.evaluator),
      SPINDLE_SAMPLER_ADDRESS: this.#called(addresses.sampler),
      SPINDLE_SCORER_ADDRESS: this.#called(addresses.scorer),
      SPINDLE_HTTP_ADDRESS: `127.0.0.1:${this.httpPort}`,
    };
    const { worldSize = 1 } = options;
    const firstRank = {
      SPINDLE_WORLD_SIZE: `${worldSize}`,
      SPINDLE_RANK: '0',
      SPINDLE_RENDEZVOUS: this.#called(addresses.trainer),
    };
    for (const kind of order) {
      const env = {
        ...(kind === 'gateway' ? gatewayOnly : {}),
        ...(kind === 'trainer' && worldSize > 1 ? firstRank : {}),
        ...options.env?.[kind],
      };
      this.#launch(kind, { kind, address: addresses[kind], env });
    }
    await Promise.all(order.map((name) => this.#serving(name)));
    const gateway = this.#called(addresses.gateway);
    this.#client = createClient(RunService, gateway, this.token, this.#transport);
    await this.#hurryRedelivery();
  }

  get client(): ServiceClient<typeof RunService> {
    if (!this.#client) throw new Error('the mesh is not running');
    return this.#client;
  }

  /** As others call it. */
  address(name: string): string {
    return this.#called(this.#member(name).address);
  }

  #called(address: string): string {
    return this.#certificates ? address.replace('127.0.0.1', 'https://localhost') : address;
  }

  get #transport(): Transport {
    return this.#certificates ? readTransport(this.#certificates) : localTransport;
  }

  get gatewayAddress(): string {
    return this.address('gateway');
  }

  /** A command that is told where this mesh is. */
  spindle(...args: string[]): Promise<CliResult> {
    const { SPINDLE_TLS_CA = '' } = this.#certificates ?? {};
    const env = {
      SPINDLE_GATEWAY: this.gatewayAddress,
      SPINDLE_TOKEN: this.token,
      SPINDLE_TLS_CA,
    };
    return cli(args, { env });
  }

  get natsUrl(): string {
    return this.#nats?.url ?? '';
  }

  /** The page's address; "spindle page" has its link. */
  get pageUrl(): string {
    return `http://127.0.0.1:${this.httpPort}/`;
  }

  runDirectory(runId: string): string {
    return join(this.artifacts, runId);
  }

  /** Of every process of the mesh but nats-server. */
  get names(): string[] {
    return [...this.#members.keys()];
  }

  isRunning(name: string): boolean {
    return this.#member(name).child.running;
  }

  /** One more process of a kind, under a name of its own. */
  async join(kind: ServiceKind, name: string, env: Record<string, string> = {}): Promise<void> {
    const [port] = await freePorts(1);
    this.#launch(name, { kind, address: `127.0.0.1:${port}`, env });
    await this.#serving(name);
    await this.#hurryRedelivery();
  }

  /** SIGTERM, as a person or a scheduler would; resolves to how it ended. */
  async leave(name: string): Promise<number | NodeJS.Signals> {
    const { child } = this.#member(name);
    await child.stop();
    this.#members.delete(name);
    return child.exited;
  }

  /** SIGKILL, then the same process anew on the same port. */
  async crash(name: string): Promise<void> {
    await this.kill(name);
    await this.revive(name);
  }

  async kill(name: string, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (name === 'nats-server') {
      const server = this.#nats;
      if (!server) throw new Error('no nats-server is running');
      process.kill(server.pid, signal);
      await server.stop();
      return;
    }
    await this.#member(name).child.stop(signal);
  }

  /** SIGSTOP and SIGCONT, say. */
  signal(name: string, signal: NodeJS.Signals): void {
    if (name !== 'nats-server') this.#member(name).child.signal(signal);
    else if (this.#nats) process.kill(this.#nats.pid, signal);
  }

  /** Where nats-server keeps what it stores, and its log. */
  get natsDirectory(): string {
    return join(this.#dir, 'nats');
  }

  /** All that a killed nats-server has stored is gone. */
  async wipeNats(): Promise<void> {
    await rm(join(this.natsDirectory, 'jetstream'), { recursive: true, force: true });
  }

  /** `extra` is this process's environment alone: the next one of the name has it no more. */
  async revive(name: string, extra: Record<string, string> = {}): Promise<void> {
    if (name === 'nats-server') {
      await this.#startNats(Number(new URL(this.natsUrl).port));
      return;
    }
    this.#launch(name, this.#member(name), extra);
    await this.#serving(name);
    await this.#hurryRedelivery();
  }

  log(name: string): string {
    return this.#member(name).child.tail(40);
  }

  async run(runId: string): Promise<Run> {
    const { run } = await this.client.getRun({ runId });
    if (!run) throw new Error(`no run ${runId}`);
    return run;
  }

  /** Starts a run from a config object with absolute paths. */
  async create(config: object, runId: string): Promise<Run> {
    const { run } = await this.client.createRun({
      configJson: JSON.stringify(config),
      runId,
      dryRun: false,
    });
    if (!run) throw new Error('the gateway returned no run');
    return run;
  }

  /**
   * The run once it is over; calls that fail because the gateway is being restarted are made again.
   */
  async ended(runId: string, timeoutMs = 240_000): Promise<Run> {
    try {
      return await until(
        `the end of run ${runId}`,
        async () => {
          const run = await this.run(runId);
          return final.includes(run.status) ? run : undefined;
        },
        timeoutMs,
      );
    } catch (error) {
      const stages = await this.run(runId)
        .then(({ stages }) =>
          stages.map((s) => `${s.stage} ${s.state} ${s.done}/${s.total}`).join(', '),
        )
        .catch(() => 'gateway not reachable');
      const logs = [...this.#members]
        .map(([name, { child }]) => `--- ${name}\n${child.tail(8)}`)
        .join('\n');
      throw new Error(`${String(error)}\n${stages}\n${logs}`, { cause: error });
    }
  }

  async stop(): Promise<void> {
    this.#client?.close();
    await Promise.all([...this.#members.values()].map(({ child }) => child.stop()));
    await this.#nats?.stop();
    await rm(this.#dir, { recursive: true, force: true });
  }

  #launch(
    name: string,
    { kind, address, env }: Omit<Member, 'child'>,
    extra: Record<string, string> = {},
  ): void {
    const child = new NodeChild(join(root, programs[kind]), [], {
      env: {
        SPINDLE_NATS_URL: this.#natsUrlOf(kind),
        SPINDLE_TOKEN: this.token,
        ...this.#certificates,
        // People come to the gateway, with a token alone.
        ...(this.#certificates &&
          kind !== 'gateway' && { SPINDLE_TLS_CLIENT_CA: this.#certificates.SPINDLE_TLS_CA }),
        SPINDLE_ARTIFACTS: this.artifacts,
        SPINDLE_GRPC_ADDRESS: address,
        SPINDLE_WORKER_ID: name,
        SPINDLE_THREADS: '1',
        SPINDLE_LOG_LEVEL: 'info',
        ...env,
        ...extra,
      },
    });
    this.#members.set(name, { kind, address, env, child });
  }

  async #serving(name: string): Promise<void> {
    const { address, child } = this.#member(name);
    await until(
      `${name} at ${address}`,
      async () => !child.running || (await this.#answers(address)) || undefined,
      startMs,
    );
    if (!child.running) throw new Error(`${name} ended as it started: ${child.tail()}`);
  }

  #answers(address: string): Promise<boolean> {
    return checkHealth(this.#called(address), 1_000, '', this.#transport);
  }

  async #startNats(port = 0): Promise<void> {
    const files = this.#certificates;
    this.#nats = await startNatsServer({
      dir: this.natsDirectory,
      port,
      logger,
      ...(files
        ? {
            users: (service) => `${service}-${this.token}`,
            tls: {
              cert: files.SPINDLE_TLS_CERT,
              key: files.SPINDLE_TLS_KEY,
              ca: files.SPINDLE_TLS_CA,
            },
          }
        : { token: this.token }),
    });
  }

  #natsUrlOf(kind: ServiceKind): string {
    if (!this.#certificates) return this.natsUrl;
    const { port } = new URL(this.natsUrl);
    return `tls://${kind}:${kind}-${this.token}@localhost:${port}`;
  }

  /** Services set the queue up with production's waits whenever they start. */
  async #hurryRedelivery(): Promise<void> {
    const bus = await connectBus({
      url: this.#natsUrlOf('gateway'),
      token: this.token,
      transport: this.#transport,
      name: 'harness',
      service: 'gateway',
      logger,
    });
    try {
      await bus.provision({ ackWaitMs });
    } finally {
      await bus.close();
    }
  }

  #member(name: string): Member {
    const member = this.#members.get(name);
    if (!member) throw new Error(`the mesh has no ${name}`);
    return member;
  }
}

export async function readJson(file: string): Promise<unknown> {
  return JSON.parse(await readFile(file, 'utf8'));
}
