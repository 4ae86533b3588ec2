/** What carrying out a command means: one entry per command. */
import { stageName } from '../domain/stage.js';
import type { Command, CommandType } from '../domain/work.js';
import type { JobPublisher } from './publisher.js';
import { background, type RunContext } from './run-context.js';
import { dropSnapshots } from './snapshots.js';
import type { TaskRunner } from './task-runner.js';
import { evaluateModel, trainModel, writeReport } from './tasks.js';

export type Effect<T extends CommandType> = (command: Command<T>) => void | Promise<void>;
export type Effects = { readonly [T in CommandType]: Effect<T> };

/** The effects of a run's commands. They only begin what takes long. */
export function effectsOf(
  context: RunContext,
  { publisher, tasks }: { publisher: JobPublisher; tasks: TaskRunner },
): Effects {
  const { bus, logger } = context.ports;
  return {
    purge: async () => {
      publisher.clear();
      // Workers that already hold a job finish it; its result is kept and counts when the run is
      // resumed.
      await bus
        .purgeJobs(context.record().runId)
        .catch((error: unknown) => logger.warn({ err: error }, 'the queue could not be purged'));
    },
    publish: ({ stage, shards }) => publisher.add(stage, shards),
    train: ({ model }) =>
      tasks.launch(stageName({ kind: 'train', model }), (signal) =>
        trainModel(context, model, signal),
      ),
    'stop-training': ({ model }) => tasks.abort(stageName({ kind: 'train', model })),
    'drop-snapshots': ({ model, steps }) =>
      void background(context, dropSnapshots(context, model, steps)),
    evaluate: ({ model }) =>
      tasks.launch(stageName({ kind: 'evaluate', model }), (signal) =>
        evaluateModel(context, model, signal),
      ),
    report: () =>
      tasks.launch(stageName({ kind: 'report' }), (signal) => writeReport(context, signal)),
  };
}

/** Looks the command's effect up and runs it. */
export async function carryOut<T extends CommandType>(
  effects: Effects,
  command: Command<T>,
): Promise<void> {
  const effect: Effect<T> = effects[command.type];
  await effect(command);
}
