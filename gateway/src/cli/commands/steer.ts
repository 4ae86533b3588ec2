/** pause, resume, cancel, delete. */
import type { Command } from 'commander';
import type { Run } from '@spindle/proto';
import { withClient, withCommonOptions, type CommonOptions, type Environment, type RunClient } from '../context.js';
import { statusName } from '../format.js';
import { runObject } from './run.js';

const verbs: { name: string; text: string; call: (client: RunClient, runId: string) => Promise<{ run?: Run | undefined }> }[] = [
  {
    name: 'pause',
    text: 'Stops handing out work and writes a checkpoint; jobs in hand are finished. The run stays paused over restarts.',
    call: (client, runId) => client.pauseRun({ runId }),
  },
  {
    name: 'resume',
    text: 'Goes on with a paused run, or tries a failed one again; what is done stays done.',
    call: (client, runId) => client.resumeRun({ runId }),
  },
  { name: 'cancel', text: 'Ends a run for good. Its results so far are kept.', call: (client, runId) => client.cancelRun({ runId }) },
  {
    name: 'delete',
    text: 'Removes a run that has ended: its state and its folder.',
    call: (client, runId) => client.deleteRun({ runId }).then(() => ({})),
  },
];

export function addSteer(program: Command, environment: Environment): void {
  for (const { name, text, call } of verbs) {
    withCommonOptions(program.command(name).summary(`${name} a run`).description(text).argument('<run>', 'run id')).action(
      async (runId: string, options: CommonOptions) => {
        const { run } = await withClient(options, environment, (client) => call(client, runId));
        const state = run ? statusName(run.status) : 'deleted';
        process.stdout.write(`${options.json ? JSON.stringify(run ? runObject(run) : { runId, deleted: true }) : `${runId}: ${state}`}\n`);
      },
    );
  }
}
