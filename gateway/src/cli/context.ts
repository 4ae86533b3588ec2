/** What every command shares: where the gateway is, and how to print. */
import { resolve } from 'node:path';
import { createClient, SpindleError, type ServiceClient } from '@spindle/kit';
import { RunService } from '@spindle/proto';
import type { Command } from 'commander';
import { isAlive } from '../orchestrator/process-identity.js';
import { readRuntime } from './runtime.js';

export interface Environment {
  gateway: string | undefined;
  artifacts: string;
  otlpEndpoint: string | undefined;
  ci: boolean;
  /** Passed on to services. */
  all: NodeJS.ProcessEnv;
}

export interface CommonOptions {
  json?: boolean;
  gateway?: string;
  artifacts?: string;
}

export type RunClient = ServiceClient<typeof RunService>;

export function withCommonOptions(command: Command): Command {
  return command
    .option('--json', 'print JSON for machines')
    .option(
      '--gateway <host:port>',
      'gRPC address of the gateway (default: SPINDLE_GATEWAY, or the mesh of the artifacts folder)',
    )
    .option('--artifacts <dir>', 'artifacts folder (default: SPINDLE_ARTIFACTS, or ./artifacts)');
}

export function artifactsFolder(options: CommonOptions, environment: Environment): string {
  return resolve(options.artifacts ?? environment.artifacts);
}

export async function gatewayAddress(
  options: CommonOptions,
  environment: Environment,
): Promise<string> {
  const given = options.gateway ?? environment.gateway;
  if (given !== undefined) return given;
  const folder = artifactsFolder(options, environment);
  const runtime = await readRuntime(folder);
  if (!runtime || !isAlive(runtime.pid)) {
    throw new SpindleError(
      'FAILED_PRECONDITION',
      `no mesh is running for ${folder}; start one with "npx spindle up", or name a gateway ` +
        'with --gateway.',
    );
  }
  if (runtime.gateway === '')
    throw new SpindleError(
      'UNAVAILABLE',
      `the mesh of ${folder} is still starting; try again once it has said its gRPC address.`,
    );
  return runtime.gateway;
}

export async function withClient<T>(
  options: CommonOptions,
  environment: Environment,
  use: (client: RunClient) => Promise<T>,
): Promise<T> {
  const client = createClient(RunService, await gatewayAddress(options, environment));
  try {
    return await use(client);
  } finally {
    client.close();
  }
}
