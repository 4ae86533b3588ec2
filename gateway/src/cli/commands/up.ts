/** `spindle up`: the whole mesh on this machine, in the foreground. */
import { ensureError } from '@spindle/kit';
import { withoutSecret } from '@spindle/mesh';
import { RunStatus } from '@spindle/proto';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { loadRunConfig } from '../../config/load.js';
import { pageLink } from '../../http/access.js';
import {
  artifactsFolder,
  givenToken,
  withClient,
  type CommonOptions,
  type Environment,
} from '../context.js';
import { isOver } from '../format.js';
import { logLine } from '../log-line.js';
import { startMesh, type Mesh } from '../mesh/mesh.js';
import { findUnfinished, whereIs } from '../unfinished.js';
import { createRun, followToExitCode } from './run.js';
import { print, printJson, tell } from '../output.js';

/** Who ends the mesh does not wait longer for a sentence. */
const lastWordMs = 1_000;

interface UpOptions extends CommonOptions {
  samplers: number;
  scorers: number;
  threads: number;
  ranks: number;
  httpPort: number;
  grpcPort: number;
  nats?: string;
  logLevel: string;
  run?: string;
  exit?: boolean;
}

export function addUp(program: Command, environment: Environment): void {
  program
    .command('up')
    .summary('start NATS and all services on this machine')
    .description(
      'Starts nats-server, trainer, evaluator, samplers, scorers and gateway, restarts what ' +
        'crashes, and stays until Ctrl-C. Runs that were going on are taken up again.',
    )
    .option('--artifacts <dir>', 'artifacts folder (default: SPINDLE_ARTIFACTS, or ./artifacts)')
    .option('--samplers <n>', 'number of sampler processes', wholeNumber(1, 64), 1)
    .option('--scorers <n>', 'number of scorer processes', wholeNumber(1, 64), 1)
    .option('--threads <n>', 'threads per service; 0: all cores', wholeNumber(0, 4096), 0)
    .option(
      '--ranks <n>',
      'processes that train together, one per device; they share the cores, and batches are ' +
        'shared out among them',
      wholeNumber(1, 64),
      1,
    )
    .option(
      '--http-port <port>',
      'port of the status page on 127.0.0.1; 0: any free one',
      wholeNumber(0, 65_535),
      0,
    )
    .option(
      '--grpc-port <port>',
      'port of the gRPC API on 127.0.0.1; 0: any free one',
      wholeNumber(0, 65_535),
      0,
    )
    .option('--nats <url>', 'use this NATS server instead of starting one')
    .addOption(
      new Option('--log-level <level>', 'how much services say; full logs lie in <artifacts>/logs')
        .choices(['debug', 'info', 'warn', 'error'])
        .default('info'),
    )
    .option(
      '--run <config>',
      'start this run once everything is up, or go on with an unfinished one of the same config, ' +
        'and follow it',
    )
    .option(
      '--exit',
      'with --run: stop when the run has ended; exit code 0 if it succeeded, else 1',
    )
    .option('--json', 'print addresses and events as JSON')
    .action(async (options: UpOptions) => {
      // Bad input is told before anything is started.
      const config = options.run === undefined ? null : loadRunConfig(options.run);
      const artifacts = artifactsFolder(options, environment);
      // What the mesh writes is for its own user alone.
      process.umask(0o077);
      const followed = config !== null && !options.json;
      const stop = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
      const start = startMesh({
        artifacts,
        samplers: options.samplers,
        scorers: options.scorers,
        threads: options.threads,
        ranks: options.ranks,
        natsUrl: options.nats,
        token: givenToken(environment),
        grpcPort: options.grpcPort,
        httpPort: options.httpPort,
        logLevel: options.logLevel,
        environment: environment.all,
        signal: stop.signal,
        // The live view of a run has the terminal for itself; trouble is shown anyway.
        onLine: (name, line) => {
          const text = logLine(name, line, followed ? 'error' : 'info');
          if (text !== null && !options.json) tell(text);
        },
        onNotice: (text) => tell(`spindle: ${text}`),
      });
      const mesh = await start.catch((error: unknown) => {
        if (!stop.signal.aborted) throw error;
        // Ctrl-C before everything was up: all of it has been stopped again.
        process.exitCode = options.exit ? 1 : 0;
        return null;
      });
      if (mesh === null) return;
      mesh.lost.addEventListener('abort', () => {
        tell(`spindle: ${ensureError(mesh.lost.reason).message}`);
        process.exitCode = 1;
      });
      await serve(mesh, config, options, AbortSignal.any([stop.signal, mesh.lost]), {
        ...environment,
        gateway: mesh.runtime.gateway,
        token: mesh.runtime.token,
        artifacts,
      });
    });
}

async function serve(
  mesh: Mesh,
  config: object | null,
  options: UpOptions,
  stop: AbortSignal,
  environment: Environment,
): Promise<void> {
  const stopped = new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener('abort', () => resolve(), { once: true });
  });
  try {
    const { gateway, http, natsUrl, token } = mesh.runtime;
    const nats = withoutSecret(natsUrl);
    const page = pageLink(http, token);
    if (options.json) printJson(JSON.stringify({ gateway, http, nats, page }));
    else print(`status page: ${page}\ngRPC:        ${gateway}\nNATS:        ${nats}`);
    if (config === null) {
      await stopped;
      return;
    }
    const common: CommonOptions = {
      ...(options.json && { json: true }),
      artifacts: environment.artifacts,
    };
    const runId = await takeUpOrCreate(config, common, environment);
    const ended = followToExitCode(runId, common, environment).then(
      (code) => (process.exitCode = code),
    );
    // Ctrl-C ends both; the one that loses the race has nothing to say.
    ended.catch(() => undefined);
    const interrupted = await Promise.race([ended.then(() => false), stopped.then(() => true)]);
    if (interrupted) {
      process.exitCode = options.exit ? 1 : 0;
      await sayWhatIsKept(runId, common, environment);
    }
    if (interrupted || options.exit) return;
    if (!options.json) print(`The mesh stays up (status page: ${http}); Ctrl-C ends it.`);
    await stopped;
  } catch (thrown) {
    const error = ensureError(thrown);
    if (error.code !== 'CANCELLED') throw error;
  } finally {
    await mesh.stop();
  }
}

/** An unfinished run of the same config goes on; a second one would wait behind it for nothing. */
async function takeUpOrCreate(
  config: object,
  common: CommonOptions,
  environment: Environment,
): Promise<string> {
  const unfinished = await withClient(common, environment, async (client) => {
    const run = await findUnfinished(client, config);
    if (run?.status === RunStatus.PAUSED) await client.resumeRun({ runId: run.runId });
    return run;
  });
  if (unfinished !== undefined) {
    tell(`spindle: going on with run ${unfinished.runId} at ${whereIs(unfinished)}`);
    return unfinished.runId;
  }
  const { run } = await createRun({ configJson: JSON.stringify(config) }, common, environment);
  return run?.runId ?? '';
}

/** Ctrl-C ends the mesh, not the run. */
async function sayWhatIsKept(
  runId: string,
  common: CommonOptions,
  environment: Environment,
): Promise<void> {
  const answer = await withClient(common, environment, (client) =>
    client.getRun({ runId }, { timeoutMs: lastWordMs }),
  ).catch(() => null);
  const run = answer?.run;
  if (!run || isOver(run)) return;
  tell(
    `spindle: run ${runId} is kept at ${whereIs(run)}; the same command goes on with it, and so ` +
      'does every "npx spindle up" of this artifacts folder',
  );
}

function wholeNumber(low: number, high: number): (value: string) => number {
  return (value) => {
    const number = Number(value);
    if (!Number.isInteger(number) || number < low || number > high)
      throw new InvalidArgumentError(`expected a whole number from ${low} to ${high}.`);
    return number;
  };
}
