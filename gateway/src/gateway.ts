/** The whole gateway as one object, so that tests start it beside fakes in one process. */
import { openFiles } from '@spindle/data';
import {
  createClient,
  GrpcServer,
  localTransport,
  type Logger,
  type People,
  type Transport,
} from '@spindle/kit';
import { type ArtifactStore, type Bus } from '@spindle/mesh';
import {
  EvaluatorService,
  RunService,
  SamplerService,
  ScorerService,
  TrainerService,
} from '@spindle/proto';
import { audited } from './server/audit.js';
import { leastRoleOf } from './server/roles.js';
import { startHttp } from './http/server.js';
import { registerInstruments } from './orchestrator/instruments.js';
import { Orchestrator } from './orchestrator/orchestrator.js';
import { RunApi } from './server/run-service.js';

export interface GatewayOptions {
  bus: Bus;
  store: ArtifactStore;
  root: string;
  grpcAddress: string;
  httpAddress: string;
  trainerAddress: string;
  evaluatorAddress: string;
  samplerAddress: string;
  /** Of any scorer. */
  scorerAddress: string;
  owner: string;
  /** What callers have to show, and what the services are shown. */
  token: string | undefined;
  /** Who else may call, and how far; only with a token. */
  people?: People | undefined;
  /** Default: in plain, within this machine. */
  transport?: Transport;
  /** Where health alone is said in plain; undefined for nowhere. */
  healthAddress?: string | undefined;
  logger: Logger;
  rescanMs?: number;
  leaseTtlMs?: number;
}

export interface Gateway {
  grpcPort: number;
  httpPort: number;
  orchestrator: Orchestrator;
  stop(): Promise<void>;
}

const standard = { rescanMs: 5_000, leaseTtlMs: 5_000, shutdownGraceMs: 2_000 };

export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { bus, store, root, logger, token, people, transport = localTransport } = options;
  const trainer = createClient(TrainerService, options.trainerAddress, token, transport);
  const evaluator = createClient(EvaluatorService, options.evaluatorAddress, token, transport);
  const sampler = createClient(SamplerService, options.samplerAddress, token, transport);
  const scorer = createClient(ScorerService, options.scorerAddress, token, transport);
  const files = openFiles();
  const orchestrator = new Orchestrator({
    bus,
    store,
    files,
    root,
    trainer,
    evaluator,
    logger,
    owner: options.owner,
    rescanMs: options.rescanMs ?? standard.rescanMs,
    leaseTtlMs: options.leaseTtlMs ?? standard.leaseTtlMs,
  });
  const closeClients = (): void => {
    for (const client of [trainer, evaluator, sampler, scorer]) client.close();
  };
  await orchestrator.start().catch((error: unknown) => {
    closeClients();
    throw error;
  });
  const api = new RunApi({ orchestrator, sampler, scorer, files, bus, store, root, logger });
  const server = new GrpcServer({ logger, token, transport, people, leastRole: leastRoleOf });
  server.addService(RunService, audited(api.handlers(), { root, logger }));
  orchestrator.onReady((ready) => server.setServing('', ready));
  const instruments = registerInstruments(bus);
  try {
    const grpcPort = await server.listen(options.grpcAddress);
    if (options.healthAddress !== undefined) await server.listenForHealth(options.healthAddress);
    const http = await startHttp({
      address: options.httpAddress,
      token,
      people,
      transport,
      orchestrator,
      api,
      bus,
      logger,
    });
    return {
      grpcPort,
      httpPort: http.port,
      orchestrator,
      stop: async () => {
        instruments.stop();
        await http.stop();
        await server.shutdown(standard.shutdownGraceMs);
        api.events.stop();
        await orchestrator.stop();
        closeClients();
      },
    };
  } catch (error) {
    instruments.stop();
    await server.shutdown(0);
    await orchestrator.stop();
    closeClients();
    throw error;
  }
}
