/** ls, status, watch. */
import { timestampDate } from '@bufbuild/protobuf/wkt';
import { RunView, type Run } from '@spindle/proto';
import type { Command } from 'commander';
import {
  runArgument,
  withClient,
  withCommonOptions,
  withRun,
  type CommonOptions,
  type Environment,
} from '../context.js';
import { duration, isOver, rate, resultsTable, statusName, table } from '../format.js';
import { judgedLines } from '../judged-lines.js';
import { followToExitCode, runObject } from './run.js';
import { print, printJson } from '../output.js';

const listPage = 200;

export function addInspect(program: Command, environment: Environment): void {
  withCommonOptions(
    program.command('ls').summary('list runs').description('Lists all runs, newest first.'),
  ).action(async (options: CommonOptions) => {
    // Machines get the runs as `status` has them, people a row of each.
    const view = options.json ? RunView.FULL : RunView.BASIC;
    const runs = await withClient(options, environment, async (client) => {
      const all: Run[] = [];
      for (let pageToken = ''; ; ) {
        const page = await client.listRuns({ pageToken, view, pageSize: listPage });
        all.push(...page.runs);
        pageToken = page.nextPageToken;
        if (pageToken === '') return all;
      }
    });
    if (options.json) return printJson(JSON.stringify({ runs: runs.map(runObject) }));
    if (runs.length === 0) return print('no runs yet; start one with: npx spindle run CONFIG');
    print(
      table([['run', 'status', 'created', 'stage', 'best'], ...runs.map(listRow)], 5).join('\n'),
    );
  });

  withCommonOptions(
    program
      .command('status')
      .summary('show one run')
      .description('Shows a run: its stages, results, warnings and dead jobs.')
      .argument('<run>', runArgument),
  ).action(async (named: string, options: CommonOptions) => {
    const { run } = await withRun(named, options, environment, (client, runId) =>
      client.getRun({ runId }),
    );
    if (!run) return;
    if (options.json) printJson(JSON.stringify(runObject(run)));
    else print(statusLines(run).join('\n'));
  });

  withCommonOptions(
    program
      .command('watch')
      .summary('follow a run')
      .description(
        'Follows a run until it ends: a live view on a terminal, plain lines otherwise, one ' +
          'event per line with --json. Exit code 0 when the run succeeds, 1 when it does not, 3 ' +
          'when it is paused. Ctrl-C stops watching, not the run.',
      )
      .argument('<run>', runArgument),
  ).action(async (named: string, options: CommonOptions) => {
    const runId = await withRun(named, options, environment, async (_, id) => id);
    process.exitCode = await followToExitCode(runId, options, environment);
  });
}

function listRow(run: Run): string[] {
  const created = run.createdAt
    ? timestampDate(run.createdAt).toISOString().slice(0, 16).replace('T', ' ')
    : '';
  const running = run.stages
    .filter((stage) => stage.state === 'running')
    .map((stage) => `${stage.stage} ${stage.done}/${stage.total}`);
  return [run.runId, statusName(run.status), created, running.join(', '), run.bestModel];
}

function statusLines(run: Run): string[] {
  const eta = !isOver(run) && run.etaSeconds > 0 ? `, about ${duration(run.etaSeconds)} left` : '';
  const lines = [`${run.runId}: ${statusName(run.status)}${eta}`];
  if (run.reason !== '') lines.push(run.reason);
  const rows = run.stages.map((s) => [
    s.stage,
    s.state,
    `${s.done}/${s.total}`,
    rate(s.rate),
    duration(s.seconds),
    s.state === 'running' ? duration(s.etaSeconds) : '',
  ]);
  lines.push('', ...table([['stage', 'state', 'done', 'speed', 'time', 'left'], ...rows], 2));
  if (run.results.length > 0) lines.push('', ...resultsTable(run.results, run.bestModel));
  if (run.judgedTrainings.length > 0) lines.push('', ...judgedLines(run), '');
  for (const warning of run.warnings) lines.push(`warning: ${warning}`);
  for (const job of run.deadJobs)
    lines.push(`dead job ${job.key} (${job.attempts} attempts): ${job.reason}`);
  lines.push(`folder: ${run.directory}`);
  return lines;
}
