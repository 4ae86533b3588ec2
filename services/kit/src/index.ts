export {
  createFileAtomic,
  isCode,
  makeDirectory,
  sha256File,
  sweepTemporaries,
  syncDirectory,
  temporaryName,
  writeFileAtomic,
  writeTemporary,
} from './atomic.js';
export { brief } from './brief.js';
export { parseConfig, parseConfigJson, parseYamlFile } from './config.js';
export { type ErrorCode, SpindleError, ensureError, isErrorCode } from './errors.js';
export { checkHealth, createClient } from './grpc/client.js';
export { Encoded } from './grpc/encoded.js';
export {
  type CallContext,
  type CallOptions,
  type ServiceClient,
  type ServiceHandlers,
} from './grpc/handlers.js';
export { GrpcServer } from './grpc/server.js';
export { Lifecycle, cancelled, delay, linkedAbort, within } from './lifecycle.js';
export { type Logger, createLogger } from './logger.js';
export { type ModelPath, modelName, modelPath } from './model-path.js';
export { printable, printableJson } from './printable.js';
export { ObjectStore, type S3Address, parseS3Url } from './s3/client.js';
export { dtypeBytes, tensorBytes, type TensorDtype } from './safetensors/dtypes.js';
export { type TensorField, type TensorHeader } from './safetensors/header.js';
export { readOpenHeader, readSafetensors, readSafetensorsHeader } from './safetensors/read.js';
export {
  type TensorEntry,
  asFloat32,
  asNumbers,
  fromFloat32,
  fromInt64,
} from './safetensors/values.js';
export {
  writeSafetensorsFile,
  writeWeights,
  type HollowTensor,
  type TensorSource,
} from './safetensors/write-files.js';
export { writeSafetensors } from './safetensors/write.js';
export { sealed, unsealed } from './sealed.js';
export { openTransport, runService, serve } from './service.js';
export {
  type Comparison,
  type Scored,
  type Summary,
  best,
  compare,
  levelWithItself,
  mean,
  standardError,
  summarise,
} from './statistics.js';
export {
  extractContext,
  inSpan,
  injectContext,
  meter,
  nowMs,
  recordPhases,
} from './telemetry/spans.js';
export { startTelemetry } from './telemetry/start.js';
export { callerOf } from './grpc/ask-for-token.js';
export { People, reaches, type Caller, type Role, roles, tokenDigest } from './people.js';
export { TlsFiles, type TlsIdentity } from './tls/tls-files.js';
export {
  type Transport,
  checkOpenDoor,
  checkPlainCall,
  hostOf,
  isLoopback,
  localTransport,
  readTransport,
} from './tls/transport.js';
export { newToken, readToken, sameToken } from './token.js';
export { version } from './version.js';
export {
  type RowLayout,
  bytesAt,
  elementsOf,
  layoutOf,
  readFields,
} from './safetensors/tensor-rows.js';
