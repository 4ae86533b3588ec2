import {
  createLogger,
  openTransport,
  parseConfig,
  readToken,
  runService,
  startTelemetry,
} from '@spindle/kit';
import { openStore, pickEnvironment } from '@spindle/mesh';
import { environmentSchema } from './config.js';
import { startEvaluator } from './service.js';

await runService('evaluator', async (lifecycle) => {
  const env = parseConfig(
    environmentSchema,
    pickEnvironment(environmentSchema, process.env),
    'environment',
  );
  const logger = createLogger('evaluator', { level: env.SPINDLE_LOG_LEVEL });
  const telemetry = startTelemetry({
    service: 'spindle-evaluator',
    endpoint: env.OTEL_EXPORTER_OTLP_ENDPOINT,
  });
  lifecycle.defer('telemetry', () => telemetry.shutdown());
  const store = await openStore(env.SPINDLE_ARTIFACTS, env.SPINDLE_STORE);
  await startEvaluator(lifecycle, {
    store,
    logger,
    address: env.SPINDLE_GRPC_ADDRESS,
    portFile: env.SPINDLE_PORT_FILE,
    token: readToken(env),
    transport: openTransport(lifecycle, env, logger),
    healthAddress: env.SPINDLE_HEALTH_ADDRESS,
    root: env.SPINDLE_ARTIFACTS,
  });
});
