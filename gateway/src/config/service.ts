/** What the gateway process is told by its environment; read in main.ts only. */
import { z } from 'zod';

const address = z.string().regex(/^\[?[A-Za-z0-9.:_-]+\]?:\d{1,5}$/, 'expected host:port');
const peer = z
  .string()
  .regex(
    /^(https:\/\/)?\[?[A-Za-z0-9.:_-]+\]?:\d{1,5}$/,
    'expected host:port or https://host:port',
  );

export const gatewayConfigSchema = z.strictObject({
  natsUrl: z.string().min(1).default('nats://127.0.0.1:4222'),
  /** Seconds that a start waits for the message server. */
  natsWait: z.coerce.number().min(0).default(30),
  /** Of every stream and bucket; more than one needs a cluster of servers. */
  natsReplicas: z.coerce.number().int().min(1).max(5).default(1),
  artifacts: z.string().min(1).default('artifacts'),
  /** s3://bucket/prefix of the artifact store; without it, it lies in the artifacts folder. */
  store: z.string().optional(),
  /** What the processes of a mesh show to each other; readToken checks it. */
  token: z.string().optional(),
  tokenFile: z.string().optional(),
  /** People's tokens and roles, a line each. */
  tokensFile: z.string().optional(),
  /** Certificates and whom to trust; openTransport checks them. */
  tlsCert: z.string().optional(),
  tlsKey: z.string().optional(),
  tlsCa: z.string().optional(),
  tlsClientCa: z.string().optional(),
  trustedNetwork: z.string().optional(),
  /** Where health is said in plain to probes that know no certificates. */
  healthAddress: address.optional(),
  grpcAddress: address.default('127.0.0.1:0'),
  httpAddress: address.default('127.0.0.1:0'),
  trainerAddress: peer,
  evaluatorAddress: peer,
  samplerAddress: peer,
  /** Of any scorer: it inspects judges before a run begins. */
  scorerAddress: peer,
  /** Where the bound ports are written once the gateway serves: "<gRPC port>\n<HTTP port>\n". */
  portFile: z.string().optional(),
  workerId: z.string().min(1).default('gateway'),
  logLevel: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  otlpEndpoint: z.string().optional(),
});

export type GatewayConfig = z.output<typeof gatewayConfigSchema>;

/** Environment variable of each setting. */
export const gatewayEnvironment: Record<keyof GatewayConfig, string> = {
  natsUrl: 'SPINDLE_NATS_URL',
  natsWait: 'SPINDLE_NATS_WAIT',
  natsReplicas: 'SPINDLE_NATS_REPLICAS',
  artifacts: 'SPINDLE_ARTIFACTS',
  store: 'SPINDLE_STORE',
  token: 'SPINDLE_TOKEN',
  tokenFile: 'SPINDLE_TOKEN_FILE',
  tokensFile: 'SPINDLE_TOKENS_FILE',
  tlsCert: 'SPINDLE_TLS_CERT',
  tlsKey: 'SPINDLE_TLS_KEY',
  tlsCa: 'SPINDLE_TLS_CA',
  tlsClientCa: 'SPINDLE_TLS_CLIENT_CA',
  trustedNetwork: 'SPINDLE_TRUSTED_NETWORK',
  healthAddress: 'SPINDLE_HEALTH_ADDRESS',
  grpcAddress: 'SPINDLE_GRPC_ADDRESS',
  httpAddress: 'SPINDLE_HTTP_ADDRESS',
  trainerAddress: 'SPINDLE_TRAINER_ADDRESS',
  evaluatorAddress: 'SPINDLE_EVALUATOR_ADDRESS',
  samplerAddress: 'SPINDLE_SAMPLER_ADDRESS',
  scorerAddress: 'SPINDLE_SCORER_ADDRESS',
  portFile: 'SPINDLE_PORT_FILE',
  workerId: 'SPINDLE_WORKER_ID',
  logLevel: 'SPINDLE_LOG_LEVEL',
  otlpEndpoint: 'OTEL_EXPORTER_OTLP_ENDPOINT',
};
