import { z } from 'zod';

/** What the process reads from its environment; an empty variable counts as absent. */
export const environmentSchema = z.object({
  SPINDLE_ARTIFACTS: z.string(),
  SPINDLE_GRPC_ADDRESS: z.string().default('127.0.0.1:0'),
  SPINDLE_PORT_FILE: z.string().optional(),
  SPINDLE_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.string().optional(),
});

/** The variables this process knows, without the empty ones. */
export function pickEnvironment(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const key of Object.keys(environmentSchema.shape)) {
    const value = env[key];
    if (value !== undefined && value !== '') picked[key] = value;
  }
  return picked;
}
