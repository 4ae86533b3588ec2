/** A real nats-server, a real store and the fakes in a folder of their own. For tests only. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient, createLogger, type ServiceClient } from '@spindle/kit';
import {
  connectBus,
  openLocalStore,
  startNatsServer,
  type ArtifactStore,
  type Bus,
} from '@spindle/mesh';
import { RunService, RunStatus, type Run } from '@spindle/proto';
import { startGateway, type Gateway } from '../gateway.js';
import { startFakes, type FakeBehaviour, type FakeServices } from './fakes.js';

export const quiet = createLogger('test', { level: 'silent' });

export interface Harness {
  folder: string;
  root: string;
  natsUrl: string;
  bus: Bus;
  store: ArtifactStore;
  fakes: FakeServices;
  gateway: Gateway;
  client: ServiceClient<typeof RunService>;
  config: Record<string, unknown>;
  /** As a crash: the gateway stops where it is, then a new one starts. */
  restartGateway(): Promise<void>;
  /** SIGKILL to the message server; the answer starts it again, on its port and data. */
  killNats(): Promise<() => Promise<void>>;
  restartFakes(behaviour?: FakeBehaviour): Promise<void>;
  create(overrides?: Record<string, unknown>, runId?: string): Promise<Run>;
  finished(runId: string): Promise<Run>;
  stop(): Promise<void>;
}

export const png = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=',
  'base64',
);

export async function startHarness(
  behaviour: FakeBehaviour = {},
  rows = 6,
  token?: string,
): Promise<Harness> {
  const folder = await mkdtemp(join(tmpdir(), 'spindle-gateway-'));
  const root = join(folder, 'artifacts');
  await mkdir(root);
  const config = await writeInputs(folder, rows);
  let nats = await startNatsServer({ dir: join(folder, 'nats'), logger: quiet });
  const bus = await connectBus({ url: nats.url, name: 'test', logger: quiet });
  await bus.provision();
  const store = await openLocalStore(root);
  const fakes = await startFakes({ bus, store, logger: quiet, behaviour });
  const launch = async (): Promise<Gateway> =>
    startGateway({
      bus,
      store,
      root,
      grpcAddress: '127.0.0.1:0',
      httpAddress: '127.0.0.1:0',
      trainerAddress: harness.fakes.address,
      evaluatorAddress: harness.fakes.address,
      samplerAddress: harness.fakes.address,
      scorerAddress: harness.fakes.address,
      owner: 'test',
      token,
      logger: quiet,
      rescanMs: 200,
      leaseTtlMs: 1_000,
    });
  const harness: Harness = {
    folder,
    root,
    natsUrl: nats.url,
    bus,
    store,
    fakes,
    gateway: undefined as unknown as Gateway,
    client: undefined as unknown as Harness['client'],
    config,
    restartGateway: async () => {
      await harness.gateway.stop();
      harness.client.close();
      harness.gateway = await launch();
      harness.client = createClient(RunService, `127.0.0.1:${harness.gateway.grpcPort}`, token);
    },
    killNats: async () => {
      const { pid, url } = nats;
      process.kill(pid, 'SIGKILL');
      await nats.stop();
      return async () => {
        const port = Number(new URL(url).port);
        nats = await startNatsServer({ dir: join(folder, 'nats'), port, logger: quiet });
      };
    },
    restartFakes: async (next) => {
      const port = Number(harness.fakes.address.split(':')[1]);
      await harness.fakes.stop();
      harness.fakes = await startFakes({
        bus,
        store,
        logger: quiet,
        behaviour: next ?? behaviour,
        port,
      });
    },
    create: async (overrides = {}, runId = 'r1') => {
      const { run } = await harness.client.createRun({
        configJson: JSON.stringify({ ...config, ...overrides }),
        runId,
      });
      if (!run) throw new Error('no run in the answer');
      return run;
    },
    finished: async (runId) => {
      for (;;) {
        const { run } = await harness.client.getRun({ runId });
        if (run && ![RunStatus.QUEUED, RunStatus.RUNNING].includes(run.status)) return run;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    stop: async () => {
      harness.client.close();
      await harness.gateway.stop();
      await harness.fakes.stop();
      await bus.close();
      await nats.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
  harness.gateway = await launch();
  harness.client = createClient(RunService, `127.0.0.1:${harness.gateway.grpcPort}`, token);
  return harness;
}

/** A data folder, prompts and empty model folders; the fakes do not look into models. */
async function writeInputs(folder: string, rows: number): Promise<Record<string, unknown>> {
  const data = join(folder, 'data');
  for (const name of ['data', 'model', 'clip']) await mkdir(join(folder, name));
  const lines = Array.from({ length: rows }, (_, i) =>
    JSON.stringify({ file_name: `${i}.png`, text: `picture ${i}` }),
  );
  for (let i = 0; i < rows; i++) await writeFile(join(data, `${i}.png`), png);
  await writeFile(join(data, 'metadata.jsonl'), lines.join('\n'));
  await writeFile(join(folder, 'prompts.txt'), 'one\ntwo\nthree\n');
  return {
    name: 'tiny',
    model: join(folder, 'model'),
    data: { path: data },
    iterations: 2,
    train: { steps: 6, batch_size: 2, checkpoint_steps: 2 },
    baselines: { sft: { steps: 3 } },
    sampling: { steps: 2, shard_size: 2 },
    evaluation: {
      prompts: join(folder, 'prompts.txt'),
      metrics: [{ name: 'pick', kind: 'clip', model: join(folder, 'clip') }],
    },
    resources: { encode_shard_size: 3 },
  };
}
