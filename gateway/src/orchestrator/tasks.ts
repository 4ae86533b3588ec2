/**
 * The long calls of a run: training, statistics, report. Each ends in an event, or throws what ends
 * the run.
 */
import { join } from 'node:path';
import type { ModelEvaluation, StepNumbers, TrainRequest } from '@spindle/proto';
import { ensureError, SpindleError } from '@spindle/kit';
import { modelName, type Model } from '../domain/model.js';
import { parseJobKey, trainKey } from '../domain/plan.js';
import { trainedSteps } from '../domain/training.js';
import type { ModelSummary } from '../domain/state.js';
import { modelEvaluations, persist } from './evaluation.js';
import { averageFolder, exportUnet, unetFolder } from './export.js';
import { isLoss } from './loss.js';
import { runReport } from './report-data.js';
import { restoreFolder } from './restore-folder.js';
import type { RunContext } from './run-context.js';
import { chooseSnapshot, takeSnapshots, toSnapshot } from './snapshots.js';
import { train, trainRequest } from './train-task.js';
import { toSummary } from './wire.js';

const shownImages = 4;
/** How often weights that are damaged before anyone has read them are made again. */
const mostTrainings = 2;
/** Statistics and reports read every image of a run. */
const callTimeoutMs = 600_000;

/** Trains a model and puts what it left into the run's folder. */
export async function trainModel(
  context: RunContext,
  trained: Model,
  signal: AbortSignal,
): Promise<void> {
  const { ports, dispatch } = context;
  const model = modelName(trained);
  const request = (): Promise<TrainRequest> =>
    trainRequest(context.record(), trained, context.results);
  const listener = {
    started: async (resumedStep: number) => {
      await dispatch({ type: 'train-started', model, resumedStep });
      await takeSnapshots(context, trained, resumedStep);
    },
    recent: (steps: readonly StepNumbers[]) => {
      for (const step of steps) context.metrics.add(model, step);
    },
    step: (metrics: StepNumbers) => dispatch({ type: 'train-step', model, metrics }),
    alarm: (step: number, message: string) =>
      dispatch({ type: 'train-alarm', model, step, message }),
    rolledBack: (back: { step: number; reason: string; learningRateScale: number }) =>
      dispatch({ type: 'train-rolled-back', model, ...back }),
    snapshot: (step: number) => takeSnapshots(context, trained, step),
    waiting: () => undefined,
    starving: (key: string) => expectDrawable(context, key),
  };
  const where = `training ${trainKey(context.record().runId, trained)}`;
  // Before the state says "trained", so that the folders are there whenever it does.
  const folder = join(context.directory, unetFolder(trained));
  for (let again = 0; ; again++) {
    const result = await train(ports.trainer, request, listener, signal, ports.logger);
    if (signal.aborted || !result) return;
    const last = toSnapshot(result, where);
    const chosen = await chooseSnapshot(context, trained, last, signal);
    try {
      await exportUnet(ports.store, chosen.unet, folder);
      if (chosen.average) await exportUnet(ports.store, chosen.average, averageFolder(folder));
    } catch (thrown) {
      // A trainer that is asked again finds its result without blobs, and trains again.
      if (!isLoss(ensureError(thrown)) || again >= mostTrainings) throw thrown;
      ports.logger.warn({ err: thrown, model }, 'damaged weights are made again');
      // Of what it left on the way it would only find that it was there.
      if (chosen.kept !== undefined)
        await ports.store.deleteResults(trainKey(context.record().runId, trained));
      continue;
    }
    await dispatch({ type: 'train-finished', model, ...chosen });
    return;
  }
}

/**
 * Training waits for a job's images. A job that is done has nothing left to do: DATA_LOSS where its
 * result is gone, so that it is done again.
 */
async function expectDrawable({ record, results }: RunContext, key: string): Promise<void> {
  const job = parseJobKey(key);
  const isDone = (): boolean =>
    job !== undefined && record().state.stages[job.stage]?.done.includes(job.shard) === true;
  if (isDone() && !(await results.get(key)))
    throw new SpindleError('DATA_LOSS', `result ${key}: expected in the store, got nothing.`);
}

/** Statistics of every model so far; those of this one are news. */
export async function evaluateModel(
  context: RunContext,
  evaluated: Model,
  signal: AbortSignal,
): Promise<void> {
  const { ports, dispatch } = context;
  const model = modelName(evaluated);
  const texts = await context.texts();
  const record = context.record();
  const models = modelEvaluations(record, texts);
  const response = await persist(
    () =>
      ports.evaluator.evaluate(
        { runId: record.runId, models },
        { signal, timeoutMs: callTimeoutMs },
      ),
    signal,
    ports.logger,
    `the evaluation of ${model}`,
  );
  if (!response) return;
  const results = response.models.map(toSummary);
  const summary = results.find((one) => one.model === model);
  if (summary) await showEvaluation(context, models, summary);
  await dispatch({ type: 'evaluated', model, results });
}

/**
 * Scores and the first images, for TensorBoard; a report will have them all, so that nothing here
 * may stop the run.
 */
async function showEvaluation(
  { ports, results, metrics }: RunContext,
  models: readonly ModelEvaluation[],
  summary: ModelSummary,
) {
  try {
    const [first] = models.find(({ model }) => model === summary.model)?.sampleKeys ?? [];
    const refs =
      first === undefined ? [] : (await results.sample(first)).images.slice(0, shownImages);
    const images = await Promise.all(
      refs.map(async (ref, i) => ({ name: String(i), png: await ports.store.get(ref) })),
    );
    await metrics.tensorboard.evaluation(summary, images);
  } catch (thrown) {
    ports.logger.warn(
      { err: ensureError(thrown) },
      'the evaluation was not written for TensorBoard',
    );
  }
}

/** The report of the whole run, which ends it. */
export async function writeReport(context: RunContext, signal: AbortSignal): Promise<void> {
  const { ports, directory } = context;
  await restoreFolder(context);
  const missing = await context.metrics.restore(trainedSteps(context.record().state));
  for (const message of missing) await context.dispatch({ type: 'warning', message });
  const texts = await context.texts();
  const record = context.record();
  const models = modelEvaluations(record, texts);
  const run = runReport(record, context.metrics.curves(), Date.now());
  const response = await persist(
    () =>
      ports.evaluator.writeReport(
        { runId: record.runId, directory, models, run },
        { signal, timeoutMs: callTimeoutMs },
      ),
    signal,
    ports.logger,
    'the report',
  );
  if (response) await context.dispatch({ type: 'report-written' });
}
