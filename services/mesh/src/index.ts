export { heartbeat } from './heartbeat.js';
export { type Bus, type JobContext } from './nats/bus.js';
export { withoutSecret } from './nats/access.js';
export { connectBus } from './nats/connect.js';
export { type KvStore } from './nats/kv.js';
export { Lease } from './nats/lease.js';
export { type NatsServer, startNatsServer } from './nats/server.js';
export { digestHex } from './store/keys.js';
export { openLocalStore } from './store/local.js';
export { openStore } from './store/remote.js';
export { type ArtifactStore, type CheckpointMirror } from './store/store.js';
export {
  engineEnvironmentSchema,
  engineOptions,
  environmentSchema,
  pickEnvironment,
  serviceEnvironment,
} from './worker-environment.js';
export { type WorkerContext, WorkerState, announceWorker, openWorker, takeJobs } from './worker.js';
export { createJobHandler, type JobHandlerParts, type JobInstruments } from './job-handler.js';
export { isLeftOver, readJobResult } from './job-result.js';
export { snapshotKey } from './snapshot-key.js';
export { checkRunFiles, unchanged } from './run-files.js';
export { runPrecision, type RunPrecision } from './run-precision.js';
export { unetSource, type UnetSource } from './unet-source.js';
