export { parseConfig, parseYamlFile } from './config.js';
export { nearest } from './config-issues.js';
export * from './errors.js';
export * from './lifecycle.js';
export * from './logger.js';
export * from './safetensors.js';
export * from './tensor-rows.js';
export * from './statistics.js';
export { isCode, sha256File, writeFileAtomic } from './store/atomic.js';
export { ObjectStore, parseS3Url, type S3Address, type S3Options } from './s3/client.js';
export { digestHex } from './store/keys.js';
export { openLocalStore } from './store/local.js';
export { openStore } from './store/remote.js';
export type { ArtifactStore, CheckpointMirror } from './store/store.js';
export { checkHealth, createClient } from './grpc/client.js';
export { toGrpcJs } from './grpc/definition.js';
export type { CallContext, CallOptions, ServiceClient, ServiceHandlers } from './grpc/handlers.js';
export { GrpcServer } from './grpc/server.js';
export { startTelemetry, type Telemetry, type TelemetryOptions } from './telemetry/start.js';
export {
  extractContext,
  injectContext,
  inSpan,
  meter,
  nowMs,
  recordPhases,
  tracer,
} from './telemetry/spans.js';
export type {
  Bus,
  ConsumeOptions,
  DeadLetter,
  JobContext,
  ProvisionOptions,
  QueueDepth,
} from './nats/bus.js';
export { connectBus } from './nats/connect.js';
export { findNatsServer } from './nats/find.js';
export type { KvRecord, KvStore } from './nats/kv.js';
export { Lease } from './nats/lease.js';
export { startNatsServer, type NatsServer } from './nats/server.js';
export { heartbeat, runService, serve, type ServeOptions } from './service.js';
export { announceWorker, openWorker, takeJobs, WorkerState, type WorkerContext } from './worker.js';
export {
  engineEnvironmentSchema,
  engineOptions,
  environmentSchema,
  pickEnvironment,
  serviceEnvironment,
  type Environment,
} from './worker-environment.js';
