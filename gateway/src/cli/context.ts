/** What every command shares: where the gateway is, and how to print. */
import { resolve } from 'node:path';
import {
  createClient,
  ensureError,
  localTransport,
  readToken,
  readTransport,
  SpindleError,
  type ServiceClient,
  type Transport,
} from '@spindle/kit';
import { RunService } from '@spindle/proto';
import type { Command } from 'commander';
import { isAlive } from '../orchestrator/process-identity.js';
import { findRunId } from './run-id.js';
import { readRuntime, type Runtime } from './runtime.js';

export interface Environment {
  gateway: string | undefined;
  /** Of the gateway that is named; the mesh of an artifacts folder says its own. */
  token: string | undefined;
  tokenFile: string | undefined;
  artifacts: string;
  otlpEndpoint: string | undefined;
  ci: boolean;
  /** Passed on to services. */
  all: NodeJS.ProcessEnv;
}

/** There is nothing that could come back, unlike with a gateway that does not answer. */
export class NoMeshError extends SpindleError {
  constructor(folder: string) {
    super(
      'UNAVAILABLE',
      `no mesh is running for ${folder}; start one with "npx spindle up", or name a gateway ` +
        'with --gateway.',
    );
  }
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
      '--gateway <address>',
      'gRPC address of the gateway, host:port or https://host:port (default: SPINDLE_GATEWAY, or ' +
        'the mesh of the artifacts folder)',
    )
    .option('--artifacts <dir>', 'artifacts folder (default: SPINDLE_ARTIFACTS, or ./artifacts)');
}

export function artifactsFolder(options: CommonOptions, environment: Environment): string {
  return resolve(options.artifacts ?? environment.artifacts);
}

/** The token that the environment gives. */
export function givenToken(environment: Environment): string | undefined {
  return readToken({
    SPINDLE_TOKEN: environment.token,
    SPINDLE_TOKEN_FILE: environment.tokenFile,
  });
}

/** Where the gateway is, and what it wants to be shown. */
export async function findGateway(
  options: CommonOptions,
  environment: Environment,
): Promise<{ address: string; token: string | undefined; transport: Transport }> {
  const given = options.gateway ?? environment.gateway;
  const folder = artifactsFolder(options, environment);
  const runtime = await readRuntime(folder);
  if (given !== undefined) {
    // The folder's token is for the folder's mesh, and for nobody else.
    const own = runtime?.gateway === given ? runtime.token : undefined;
    const transport = readTransport(environment.all);
    return { address: given, token: givenToken(environment) ?? own, transport };
  }
  if (!runtime || !isServed(runtime)) throw new NoMeshError(folder);
  if (runtime.gateway === '')
    throw new SpindleError(
      'UNAVAILABLE',
      `the mesh of ${folder} is still starting; try again once it has said its gRPC address.`,
    );
  return { address: runtime.gateway, token: runtime.token, transport: localTransport };
}

/** Services outlive an `up` that was killed; what counts is the gateway. */
function isServed({ pid, services }: Runtime): boolean {
  return isAlive(pid) || services.some((one) => one.name === 'gateway' && isAlive(one.pid));
}

export async function withClient<T>(
  options: CommonOptions,
  environment: Environment,
  use: (client: RunClient) => Promise<T>,
): Promise<T> {
  const { address, token, transport } = await findGateway(options, environment);
  const client = createClient(RunService, address, token, transport);
  try {
    return await use(client);
  } catch (thrown) {
    const error = ensureError(thrown);
    if (!isRefused(error)) throw error;
    throw new SpindleError(
      'UNAVAILABLE',
      `no gateway answers at ${address}; start a mesh with "npx spindle up", or name another ` +
        'gateway with --gateway.',
      { cause: error },
    );
  } finally {
    client.close();
  }
}

/** A connection that never was, told from a gateway that says it is not ready. */
function isRefused({ code, message }: SpindleError): boolean {
  // One that TLS does not let be has its own reason.
  if (code !== 'UNAVAILABLE' || /certificate|SSL/i.test(message)) return false;
  return /No connection established|ECONNREFUSED/.test(message);
}

/** As withClient, with the id of the run that is named. */
export async function withRun<T>(
  named: string,
  options: CommonOptions,
  environment: Environment,
  use: (client: RunClient, runId: string) => Promise<T>,
): Promise<T> {
  return withClient(options, environment, async (client) =>
    use(client, await findRunId(client, named)),
  );
}

/** What commands say of an argument that names a run. */
export const runArgument = 'run id, the beginning of one, or "latest"';
