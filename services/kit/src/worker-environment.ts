import { hostname } from 'node:os';
import { z } from 'zod';

/** What a process that loads the engine reads from its environment; an empty variable counts as absent. */
export const environmentSchema = z.object({
  SPINDLE_NATS_URL: z.string().default('nats://127.0.0.1:4222'),
  SPINDLE_ARTIFACTS: z.string(),
  SPINDLE_GRPC_ADDRESS: z.string().default('127.0.0.1:0'),
  SPINDLE_PORT_FILE: z.string().optional(),
  SPINDLE_WORKER_ID: z
    .string()
    .regex(/^[A-Za-z0-9_-]+$/, 'expected letters, digits, "-" and "_"')
    .default(`${hostname().replace(/[^A-Za-z0-9_-]/g, '-')}-${process.pid}`),
  SPINDLE_THREADS: z.coerce.number().int().min(0).default(0),
  SPINDLE_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  SPINDLE_BACKEND: z.enum(['cpu', 'cuda', 'reference']).default('cpu'),
  SPINDLE_ISA: z.enum(['auto', 'amx', 'avx512_bf16', 'avx512', 'avx2', 'generic']).default('auto'),
  SPINDLE_ADDON: z.string().optional(),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.string().optional(),
});

export type Environment = z.output<typeof environmentSchema>;

/** The variables this process knows, without the empty ones. */
export function pickEnvironment(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const key of Object.keys(environmentSchema.shape)) {
    const value = env[key];
    if (value !== undefined && value !== '') picked[key] = value;
  }
  return picked;
}
