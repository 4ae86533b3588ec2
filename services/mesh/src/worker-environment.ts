import { hostname } from 'node:os';
import { z } from 'zod';

/** What every service reads from its environment. */
export const serviceEnvironment = {
  SPINDLE_ARTIFACTS: z.string(),
  /** s3://bucket/prefix of the artifact store; without it, it lies in the artifacts folder. */
  SPINDLE_STORE: z.string().optional(),
  /** What the processes of a mesh show to each other; readToken checks it. */
  SPINDLE_TOKEN: z.string().optional(),
  SPINDLE_TOKEN_FILE: z.string().optional(),
  /** Certificates of this process and whom it trusts; openTransport checks them. */
  SPINDLE_TLS_CERT: z.string().optional(),
  SPINDLE_TLS_KEY: z.string().optional(),
  SPINDLE_TLS_CA: z.string().optional(),
  SPINDLE_TLS_CLIENT_CA: z.string().optional(),
  SPINDLE_TRUSTED_NETWORK: z.string().optional(),
  /** Where health is said in plain to probes that know no certificates. */
  SPINDLE_HEALTH_ADDRESS: z.string().optional(),
  SPINDLE_GRPC_ADDRESS: z.string().default('127.0.0.1:0'),
  SPINDLE_PORT_FILE: z.string().optional(),
  SPINDLE_LOG_LEVEL: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
    .default('info'),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.string().optional(),
};

/** Of a process that talks to the message server. */
export const natsEnvironment = {
  SPINDLE_NATS_URL: z.string().default('nats://127.0.0.1:4222'),
  /** How long a start waits for the message server before it gives up. */
  SPINDLE_NATS_WAIT: z.coerce.number().min(0).default(30),
  /** Of every stream and bucket; more than one needs a cluster of servers. */
  SPINDLE_NATS_REPLICAS: z.coerce.number().int().min(1).max(5).default(1),
};

/**
 * What a process that loads the engine reads from its environment; an empty variable counts as
 * absent.
 */
export const environmentSchema = z.object({
  ...serviceEnvironment,
  ...natsEnvironment,
  /** `off`: it answers calls and takes no jobs, as the inspector beside a gateway does. */
  SPINDLE_JOBS: z.enum(['on', 'off']).default('on'),
  /** How long the job in hand may go on after SIGTERM before it is handed back. */
  SPINDLE_DRAIN_SECONDS: z.coerce.number().min(0).max(86_400).default(0),
  SPINDLE_WORKER_ID: z
    .string()
    .regex(/^[A-Za-z0-9_-]+$/, 'expected letters, digits, "-" and "_"')
    .default(`${hostname().replace(/[^A-Za-z0-9_-]/g, '-')}-${process.pid}`),
  SPINDLE_THREADS: z.coerce.number().int().min(0).default(0),
  SPINDLE_BACKEND: z
    .string()
    .regex(
      /^(auto|cpu|cuda|cuda:\d{1,3}|reference)$/,
      'expected auto, cpu, cuda, cuda:N or reference',
    )
    .default('cpu'),
  SPINDLE_ISA: z.enum(['auto', 'amx', 'avx512_bf16', 'avx512', 'avx2', 'generic']).default('auto'),
  SPINDLE_ADDON: z.string().optional(),
});

export type Environment = z.output<typeof environmentSchema>;

/** The variables that a schema knows, without the empty ones. */
export function pickEnvironment(
  schema: z.ZodObject,
  env: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const key of Object.keys(schema.shape)) {
    const value = env[key];
    if (value !== undefined && value !== '') picked[key] = value;
  }
  return picked;
}

/** The part that the engine alone needs, for programs outside of a mesh. */
export const engineEnvironmentSchema = environmentSchema.pick({
  SPINDLE_THREADS: true,
  SPINDLE_BACKEND: true,
  SPINDLE_ISA: true,
  SPINDLE_ADDON: true,
});

/** The engine as the environment wants it. */
export function engineOptions(env: z.output<typeof engineEnvironmentSchema>): {
  backend: string;
  threads: number;
  isa: string;
  addon?: string;
} {
  return {
    backend: env.SPINDLE_BACKEND,
    threads: env.SPINDLE_THREADS,
    isa: env.SPINDLE_ISA,
    ...(env.SPINDLE_ADDON === undefined ? {} : { addon: env.SPINDLE_ADDON }),
  };
}
