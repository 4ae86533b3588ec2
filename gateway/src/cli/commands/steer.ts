/** pause, resume, cancel, delete. */
import type { Command } from 'commander';
import type { Run } from '@spindle/proto';
import { loadRunConfig } from '../../config/load.js';
import {
  runArgument,
  withCommonOptions,
  withRun,
  type CommonOptions,
  type Environment,
  type RunClient,
} from '../context.js';
import { statusName } from '../format.js';
import { runObject } from './run.js';
import { print, printJson } from '../output.js';

interface SteerOptions extends CommonOptions {
  config?: string;
}

interface Answer {
  run?: Run | undefined;
  changes?: string[];
}

const verbs: {
  name: string;
  text: string;
  call: (client: RunClient, runId: string, options: SteerOptions) => Promise<Answer>;
}[] = [
  {
    name: 'pause',
    text:
      'Stops handing out work and writes a checkpoint; jobs in hand are finished. The run stays ' +
      'paused over restarts.',
    call: (client, runId) => client.pauseRun({ runId }),
  },
  {
    name: 'resume',
    text:
      'Goes on with a paused run, or tries a failed one again; what is done stays done. With ' +
      '--config, settings that do not change what the run makes are taken on, others refused.',
    call: (client, runId, { config }) =>
      client.resumeRun({
        runId,
        configJson: config === undefined ? '' : JSON.stringify(loadRunConfig(config)),
      }),
  },
  {
    name: 'cancel',
    text: 'Ends a run for good. Its results so far are kept.',
    call: (client, runId) => client.cancelRun({ runId }),
  },
  {
    name: 'delete',
    text: 'Removes a run that has ended: its state and its folder.',
    call: (client, runId) => client.deleteRun({ runId }).then(() => ({})),
  },
];

export function addSteer(program: Command, environment: Environment): void {
  for (const { name, text, call } of verbs) {
    const command = withCommonOptions(
      program
        .command(name)
        .summary(`${name} a run`)
        .description(text)
        .argument('<run>', runArgument),
    );
    if (name === 'resume')
      command.option(
        '--config <file>',
        'the run config with changes: more iterations, stop, max_missing, checkpoint_steps, ' +
          'keep_checkpoints, gradient_accumulation, on_divergence, max_rollbacks, ' +
          'resources.shared_device',
      );
    command.action(async (named: string, options: SteerOptions) => {
      const answer = await withRun(named, options, environment, async (client, runId) => ({
        runId,
        ...(await call(client, runId, options)),
      }));
      const { runId, run, changes = [] } = answer;
      const state = run ? statusName(run.status) : 'deleted';
      const lines = [`${runId}: ${state}`, ...changes.map((change) => `  ${change}`)];
      const json = {
        ...(run ? (runObject(run) as object) : { runId, deleted: true }),
        ...(changes.length > 0 && { changes }),
      };
      if (options.json) printJson(JSON.stringify(json));
      else print(lines.join('\n'));
    });
  }
}
