/** The gateway process: reads the environment, connects, serves. */
import { mkdir, rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import {
  createLogger,
  openTransport,
  parseConfig,
  People,
  readToken,
  runService,
  SpindleError,
  startTelemetry,
  writeFileAtomic,
} from '@spindle/kit';
import { connectBus, openStore } from '@spindle/mesh';
import { gatewayConfigSchema, gatewayEnvironment } from './config/service.js';
import { startGateway } from './gateway.js';

/** Longer than calls under way may take, and than answers of a message server that is away. */
const shutdownMs = 8_000;
const goodbyeMs = 4_000;

const given = Object.entries(gatewayEnvironment).flatMap(([key, name]) => {
  const value = process.env[name];
  return value === undefined || value === '' ? [] : [[key, value]];
});

await runService('spindle gateway', async (lifecycle) => {
  const config = parseConfig(gatewayConfigSchema, Object.fromEntries(given), 'environment');
  const logger = createLogger('gateway', { level: config.logLevel });
  const telemetry = startTelemetry({
    service: 'spindle-gateway',
    instance: config.workerId,
    ...(config.otlpEndpoint !== undefined && { endpoint: config.otlpEndpoint }),
  });
  lifecycle.defer('telemetry', () => telemetry.shutdown());
  const token = readToken({
    SPINDLE_TOKEN: config.token,
    SPINDLE_TOKEN_FILE: config.tokenFile,
  });
  const people = People.open(config.tokensFile);
  if (people && token === undefined)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'SPINDLE_TOKENS_FILE: expected it with SPINDLE_TOKEN or SPINDLE_TOKEN_FILE, got it alone.',
    );
  if (people) lifecycle.defer('tokens', people.watch(logger));
  const transport = openTransport(
    lifecycle,
    {
      SPINDLE_TLS_CERT: config.tlsCert,
      SPINDLE_TLS_KEY: config.tlsKey,
      SPINDLE_TLS_CA: config.tlsCa,
      SPINDLE_TLS_CLIENT_CA: config.tlsClientCa,
      SPINDLE_TRUSTED_NETWORK: config.trustedNetwork,
    },
    logger,
  );
  const root = resolve(config.artifacts);
  await mkdir(root, { recursive: true });
  const bus = await connectBus({
    url: config.natsUrl,
    token,
    transport,
    name: config.workerId,
    service: 'gateway',
    logger,
    waitMs: 1_000 * config.natsWait,
    signal: lifecycle.signal,
  });
  lifecycle.defer('bus', () => bus.close(), goodbyeMs);
  await bus.provision({ replicas: config.natsReplicas });
  const store = await openStore(root, config.store);
  const gateway = await startGateway({
    ...config,
    token,
    people,
    transport,
    bus,
    store,
    root,
    owner: config.workerId,
    logger,
  });
  lifecycle.defer('gateway', () => gateway.stop(), shutdownMs);
  // Queue depths can be looked at only while the gateway is up; a short run may end before the
  // first export.
  lifecycle.defer('metrics', () => telemetry.flush());
  const { portFile } = config;
  if (portFile !== undefined) {
    await writeFileAtomic(portFile, `${gateway.grpcPort}\n${gateway.httpPort}\n`);
    lifecycle.defer('port file', () => rm(portFile, { force: true }));
  }
  const scheme = transport.tls?.content.identity ? 'https' : 'http';
  logger.info(
    { grpc: gateway.grpcPort, http: `${scheme}://127.0.0.1:${gateway.httpPort}` },
    'the gateway is ready',
  );
});
