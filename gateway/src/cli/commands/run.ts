import { toJson, type MessageInitShape } from '@bufbuild/protobuf';
import {
  RunSchema,
  RunStatus,
  type CreateRunRequestSchema,
  type CreateRunResponse,
  type Run,
} from '@spindle/proto';
import { inSpan, SpindleError, startTelemetry } from '@spindle/kit';
import type { Command } from 'commander';
import { loadRunConfig } from '../../config/load.js';
import {
  artifactsFolder,
  NoMeshError,
  withClient,
  withCommonOptions,
  type CommonOptions,
  type Environment,
} from '../context.js';
import { exitCodes } from '../exit-codes.js';
import { follow } from '../follow.js';
import { createView } from '../live.js';
import { withTemporaryMesh } from '../mesh/temporary.js';
import { describeEstimate, predict } from '../probe.js';
import { print, printJson, tell } from '../output.js';

interface RunOptions extends CommonOptions {
  dryRun?: boolean;
  probe?: boolean;
  watch?: boolean;
  runId?: string;
}

/** Checking large models and data sets takes a while. */
const createTimeoutMs = 600_000;

export function addRun(program: Command, environment: Environment): void {
  withCommonOptions(
    program
      .command('run')
      .summary('start a run from a config file')
      .description(
        'Checks a run config (YAML or JSON), starts the run and prints its id. Exit code 0: ' +
          'started (with --watch: succeeded), 1: the run failed, 2: something is wrong with the ' +
          'input, 3: somebody paused it.',
      )
      .argument('<config>', 'run config; every key is described in docs/CONFIG.md')
      .option(
        '--dry-run',
        'check the config, the models and the data, and print what would be done with memory ' +
          'and disk needed; needs no running mesh',
      )
      .option(
        '--probe',
        'with --dry-run: take a few steps on made-up data here and predict peak memory and ' +
          'run time from them',
      )
      .option('--watch', 'follow the run until it ends')
      .option(
        '--run-id <id>',
        'name of the run: lower-case letters, digits and "-" (default: the config\'s name, ' +
          'the day and four digits)',
      )
      .addHelpText(
        'after',
        '\nExamples:\n  npx spindle run examples/scenes/run.yaml --dry-run\n  npx spindle run ' +
          'examples/scenes/run.yaml --watch',
      ),
  ).action(async (file: string, options: RunOptions) => {
    const config = loadRunConfig(file);
    const request = {
      configJson: JSON.stringify(config),
      runId: options.runId ?? '',
      dryRun: options.dryRun ?? false,
    };
    if (options.probe && !options.dryRun)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        '--probe: expected --dry-run beside it, got none.',
      );
    const { run, plan, work } = options.dryRun
      ? await dryRun(request, options, environment)
      : await createRun(request, options, environment);
    if (options.dryRun || !run) {
      const predicted =
        options.probe && work
          ? await predict(config, work, artifactsFolder(options, environment))
          : undefined;
      const lines = predicted === undefined ? plan : [...plan, ...describeEstimate(predicted)];
      if (options.json)
        printJson(JSON.stringify({ plan, ...(predicted && { estimate: predicted }) }));
      else print(lines.join('\n'));
      return;
    }
    if (!options.watch) {
      if (options.json) printJson(JSON.stringify(runObject(run)));
      else print(`${run.runId}\nfollow it with: npx spindle watch ${run.runId}`);
      return;
    }
    if (!options.json) print(run.runId);
    process.exitCode = await followToExitCode(run.runId, options, environment);
  });
}

/** With the mesh that is there, or one that lives for this check alone. */
async function dryRun(
  request: MessageInitShape<typeof CreateRunRequestSchema>,
  common: CommonOptions,
  environment: Environment,
): Promise<CreateRunResponse> {
  try {
    return await createRun(request, common, environment);
  } catch (thrown) {
    if (!(thrown instanceof NoMeshError)) throw thrown;
    tell('spindle: no mesh is running; starting one for this check');
    const artifacts = artifactsFolder(common, environment);
    return withTemporaryMesh(artifacts, environment, (temporary) =>
      createRun(request, {}, temporary),
    );
  }
}

/** The whole run becomes one trace that begins here. */
export async function createRun(
  request: MessageInitShape<typeof CreateRunRequestSchema>,
  common: CommonOptions,
  environment: Environment,
): Promise<CreateRunResponse> {
  const { otlpEndpoint: endpoint } = environment;
  const telemetry = startTelemetry({ service: 'spindle-cli', endpoint });
  try {
    return await inSpan('spindle run', {}, () =>
      withClient(common, environment, (client) =>
        client.createRun(request, { timeoutMs: createTimeoutMs }),
      ),
    );
  } finally {
    await telemetry.shutdown();
  }
}

/** Of a run that has ended, or is paused. */
function exitCodeOf({ status }: Run): number {
  if (status === RunStatus.SUCCEEDED) return exitCodes.done;
  return status === RunStatus.PAUSED ? exitCodes.paused : exitCodes.failed;
}

/** Follows a run to its end, and says how that was. */
export async function followToExitCode(
  runId: string,
  options: CommonOptions,
  environment: Environment,
): Promise<number> {
  const abort = new AbortController();
  const onInterrupt = (): void => abort.abort();
  // Without this, following would outlive the gateway: a lost connection is tried again for ever.
  process.once('SIGINT', onInterrupt);
  process.once('SIGTERM', onInterrupt);
  const nothing = (): void => undefined;
  const silent = { update: nothing, lost: nothing, end: nothing };
  try {
    const run = await follow(runId, {
      common: options,
      environment,
      view: options.json ? silent : createView(process.stdout),
      signal: abort.signal,
      ...(options.json && { onEvent: printJson }),
    });
    if (options.json) printJson(JSON.stringify(runObject(run)));
    return exitCodeOf(run);
  } finally {
    process.off('SIGINT', onInterrupt);
    process.off('SIGTERM', onInterrupt);
  }
}

/** The Run message as JSON, with the config as an object. */
export function runObject(run: Run): unknown {
  const { configJson, ...rest } = toJson(RunSchema, run, { alwaysEmitImplicit: true }) as Record<
    string,
    unknown
  >;
  return {
    ...rest,
    config:
      typeof configJson === 'string' && configJson !== ''
        ? (JSON.parse(configJson) as unknown)
        : null,
  };
}
