import { connectBus, createLogger, openLocalStore, parseConfig, runService, startTelemetry } from '@spindle/kit';
import { Engine } from '@spindle/native';
import { environmentSchema, pickEnvironment } from './config.js';
import { nativeEngine } from './engine.js';
import { startScorer } from './service.js';

await runService('scorer', async (lifecycle) => {
  const env = parseConfig(environmentSchema, pickEnvironment(process.env), 'environment');
  const logger = createLogger('scorer', { level: env.SPINDLE_LOG_LEVEL });
  const telemetry = startTelemetry({ service: 'spindle-scorer', version: '0.1.0', endpoint: env.OTEL_EXPORTER_OTLP_ENDPOINT });
  lifecycle.defer('telemetry', () => telemetry.shutdown());
  const store = await openLocalStore(env.SPINDLE_ARTIFACTS);
  const bus = await connectBus({ url: env.SPINDLE_NATS_URL, name: `scorer-${env.SPINDLE_WORKER_ID}`, logger });
  lifecycle.defer('bus', () => bus.close());
  await bus.provision();
  const native = Engine.open({
    backend: env.SPINDLE_BACKEND,
    threads: env.SPINDLE_THREADS,
    isa: env.SPINDLE_ISA,
    ...(env.SPINDLE_ADDON === undefined ? {} : { addon: env.SPINDLE_ADDON }),
  });
  const engine = nativeEngine(native);
  lifecycle.defer('engine', () => engine.close());
  await startScorer(lifecycle, {
    engine,
    store,
    bus,
    logger,
    workerId: env.SPINDLE_WORKER_ID,
    address: env.SPINDLE_GRPC_ADDRESS,
    portFile: env.SPINDLE_PORT_FILE,
  });
});
