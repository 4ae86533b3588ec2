/** The process of a rank above 0. It takes no jobs and no calls; it follows rank 0. */
import {
  createLogger,
  openTransport,
  parseConfig,
  readToken,
  serve,
  startTelemetry,
  type Lifecycle,
} from '@spindle/kit';
import { engineOptions, environmentSchema, openStore, pickEnvironment } from '@spindle/mesh';
import { Engine } from '@spindle/native';
import { nativeEngine } from '../engine.js';
import { follow } from './member.js';
import { checkRankNetwork, type RankPlan } from './plan.js';

/** With `once`, the process ends with rank 0 instead of waiting for it to come back. */
export async function runMember(
  lifecycle: Lifecycle,
  plan: RankPlan & { kind: 'member' },
  variables: Readonly<Record<string, string | undefined>>,
  once: boolean,
): Promise<void> {
  const env = parseConfig(
    environmentSchema,
    pickEnvironment(environmentSchema, variables),
    'environment',
  );
  const { rank, worldSize, rendezvous } = plan;
  const token = readToken(env);
  const logger = createLogger('trainer', { level: env.SPINDLE_LOG_LEVEL }).child({ rank });
  const telemetry = startTelemetry({
    service: 'spindle-trainer',
    endpoint: env.OTEL_EXPORTER_OTLP_ENDPOINT,
    instance: env.SPINDLE_WORKER_ID,
  });
  lifecycle.defer('telemetry', () => telemetry.shutdown());
  const transport = openTransport(lifecycle, env, logger);
  checkRankNetwork(plan, transport);
  const engine = nativeEngine(Engine.open(engineOptions(env)));
  lifecycle.defer('engine', () => engine.close());
  const store = await openStore(env.SPINDLE_ARTIFACTS, env.SPINDLE_STORE);
  // Serves health checks alone, for whoever watches the process.
  if (!once) {
    await serve(
      lifecycle,
      {
        address: env.SPINDLE_GRPC_ADDRESS,
        portFile: env.SPINDLE_PORT_FILE,
        graceMs: 0,
        logger,
        token,
        transport,
        healthAddress: env.SPINDLE_HEALTH_ADDRESS,
      },
      () => undefined,
    );
  }
  const workerId = env.SPINDLE_WORKER_ID;
  const following = follow(
    { engine, store, logger, rank, worldSize, rendezvous, token, transport, workerId, once },
    lifecycle.signal,
  );
  lifecycle.defer('rank', () => following.catch(() => undefined));
  await following;
  await lifecycle.shutdown('rank 0 ended');
}
