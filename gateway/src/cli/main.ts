/** The `spindle` command: the only place of the CLI that reads the environment. */
import { runCommandLine } from './program.js';

const { env } = process;

// Whoever reads has had enough (`| head`): no failure. A mesh or a watch ends as on SIGTERM.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  if (process.listenerCount('SIGTERM') > 0) process.kill(process.pid, 'SIGTERM');
  else process.exit(0);
});
process.stderr.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});

process.exitCode = await runCommandLine(process.argv.slice(2), {
  gateway: env['SPINDLE_GATEWAY'],
  token: env['SPINDLE_TOKEN'],
  tokenFile: env['SPINDLE_TOKEN_FILE'],
  artifacts: env['SPINDLE_ARTIFACTS'] ?? 'artifacts',
  otlpEndpoint: env['OTEL_EXPORTER_OTLP_ENDPOINT'],
  ci: env['CI'] === 'true',
  all: env,
});
