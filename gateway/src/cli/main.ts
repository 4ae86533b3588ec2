/** The `spindle` command: the only place of the CLI that reads the environment. */
import { runCommandLine } from './program.js';

const { env } = process;

process.exitCode = await runCommandLine(process.argv.slice(2), {
  gateway: env['SPINDLE_GATEWAY'],
  token: env['SPINDLE_TOKEN'],
  tokenFile: env['SPINDLE_TOKEN_FILE'],
  artifacts: env['SPINDLE_ARTIFACTS'] ?? 'artifacts',
  otlpEndpoint: env['OTEL_EXPORTER_OTLP_ENDPOINT'],
  ci: env['CI'] === 'true',
  all: env,
});
