/**
 * The long calls of a run: training, statistics, report. Each ends in an event, or throws what ends
 * the run.
 */
import { join } from 'node:path';
import type { ModelEvaluation, TrainRequest } from '@spindle/proto';
import { ensureError } from '@spindle/kit';
import { trainKey } from '../domain/plan.js';
import type { StepNumbers } from '@spindle/proto';
import type { ModelSummary } from '../domain/state.js';
import type { TensorboardLog } from '../tensorboard/run-log.js';
import type { NewEvent } from './driver.js';
import { modelEvaluations, persist } from './evaluation.js';
import { averageFolder, exportUnet, unetFolder } from './export.js';
import type { RunTexts } from './jobs.js';
import type { MetricsLine } from './metrics-log.js';
import type { OrchestratorPorts } from './ports.js';
import type { RunRecord } from './record.js';
import { repairInputs } from './repair.js';
import { runReport } from './report-data.js';
import type { ResultReader } from './results.js';
import { train, trainRequest } from './train-task.js';
import { toStoredUnet, toSummary } from './wire.js';

const shownImages = 4;
/** Statistics and reports read every image of a run. */
const callTimeoutMs = 600_000;

export interface TaskContext {
  ports: OrchestratorPorts;
  signal: AbortSignal;
  record: () => RunRecord;
  directory: string;
  results: ResultReader;
  texts: () => Promise<RunTexts>;
  curves: () => Record<string, MetricsLine[]>;
  tensorboard: TensorboardLog;
  dispatch: (event: NewEvent) => Promise<unknown>;
}

export async function trainModel(context: TaskContext, model: string): Promise<void> {
  const { ports, signal, dispatch } = context;
  const request = await trainRequest(context.record(), model, context.results);
  const listener = {
    started: (resumedStep: number) => dispatch({ type: 'train-started', model, resumedStep }),
    step: (metrics: StepNumbers) => dispatch({ type: 'train-step', model, metrics }),
    alarm: (step: number, message: string) =>
      dispatch({ type: 'train-alarm', model, step, message }),
    rolledBack: (back: { step: number; reason: string; learningRateScale: number }) =>
      dispatch({ type: 'train-rolled-back', model, ...back }),
    waiting: () => undefined,
  };
  const result = await withRepair(context, request, () =>
    train(ports.trainer, request, listener, signal, ports.logger),
  );
  if (signal.aborted) return;
  const where = `training ${trainKey(request.runId, model)}`;
  const unet = toStoredUnet(result?.unet, result?.adapter, where);
  const average = result?.average && toStoredUnet(result.average, result.averageAdapter, where);
  // Before the state says "trained", so that the folders are there whenever it does.
  const folder = join(context.directory, unetFolder(model));
  await exportUnet(ports.store, unet, folder);
  if (average) await exportUnet(ports.store, average, averageFolder(folder));
  await dispatch({ type: 'train-finished', model, unet, average });
}

/**
 * A damaged shard is made again from its job: the same bytes, so that training goes on as if
 * nothing had happened.
 */
async function withRepair<T>(
  context: TaskContext,
  request: TrainRequest,
  call: () => Promise<T>,
): Promise<T> {
  try {
    return await call();
  } catch (thrown) {
    const error = ensureError(thrown);
    if (error.code !== 'DATA_LOSS' || context.signal.aborted) throw error;
    const repaired = await repairInputs(context, request);
    if (repaired === 0) throw error;
    return call();
  }
}

export async function evaluateModel(context: TaskContext, model: string): Promise<void> {
  const { ports, signal, dispatch } = context;
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
  { ports, results, tensorboard }: TaskContext,
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
    await tensorboard.evaluation(summary, images);
  } catch (thrown) {
    ports.logger.warn(
      { err: ensureError(thrown) },
      'the evaluation was not written for TensorBoard',
    );
  }
}

export async function writeReport(context: TaskContext): Promise<void> {
  const { ports, signal, directory } = context;
  const texts = await context.texts();
  const record = context.record();
  const models = modelEvaluations(record, texts);
  const run = runReport(record, context.curves(), Date.now());
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
