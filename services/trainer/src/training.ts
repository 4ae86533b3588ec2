/**
 * One training run, from its newest usable checkpoint to its committed result.
 *
 * States: resume (load the newest checkpoint that verifies) -> steps (accumulate, apply, report; checkpoint every N) ->
 * export -> commit. A cancelled run checkpoints the steps that are complete and ends with CANCELLED; a step that was cut short
 * left the weights alone and is done again. A NaN or infinite loss or norm ends the run with DIVERGED before anything is applied.
 */
import { join } from 'node:path';
import { rm } from 'node:fs/promises';
import { create, toJsonString, type MessageInitShape } from '@bufbuild/protobuf';
import { ensureError, inSpan, nowMs, recordPhases, SpindleError, type ArtifactStore, type Logger } from '@spindle/kit';
import type { ModelSourceDto, NativePrecision, PhaseDto } from '@spindle/native';
import {
  Precision,
  TrainFinishedSchema,
  UnetRefSchema,
  type TrainFinished,
  type TrainRequest,
  type TrainResponseSchema,
  type TrainStep,
} from '@spindle/proto';
import { Checkpoints, type CheckpointFacts } from './checkpoints.js';
import { Dataset } from './dataset.js';
import { DataOrder, microBatches } from './domain/draws.js';
import { autoBeta, noMargins, readMargins, withMargin, writeMargins, type MarginAverage } from './domain/auto_beta.js';
import { gatherMetrics, meanMargin, notFinite, type StepErrors } from './domain/metrics.js';
import { firstDifference, opponentImages, type TrainingSettings } from './domain/settings.js';
import type { TrainerEngine, TrainingSession } from './engine.js';
import type { Instruments } from './instruments.js';
import { resolvePrecision } from './precision.js';
import { fingerprintOf, readSettings, unetSource } from './request.js';

export interface TrainingDeps {
  store: ArtifactStore;
  engine: TrainerEngine;
  instruments: Instruments;
  logger: Logger;
}

type Response = MessageInitShape<typeof TrainResponseSchema>;

interface Prepared {
  request: TrainRequest;
  settings: TrainingSettings;
  facts: CheckpointFacts;
  init: ModelSourceDto;
  dataset: Dataset;
  session: TrainingSession;
  checkpoints: Checkpoints;
  startStep: number;
  /** Of the steps so far; what auto-beta goes by. */
  margins: MarginAverage;
}

/** `isOwner` says whether this process is still the one that may write checkpoints and the result. */
export async function* train(
  request: TrainRequest,
  deps: TrainingDeps,
  signal: AbortSignal,
  isOwner: () => boolean,
): AsyncGenerator<Response> {
  const started = performance.now();
  const settings = readSettings(request);
  const run = await prepare(request, settings, deps);
  try {
    yield {
      event: {
        case: 'started',
        value: {
          resumedStep: run.startStep,
          steps: settings.steps,
          precision: run.facts.precision === 'float32' ? Precision.FLOAT32 : Precision.BFLOAT16,
          precisionReason: run.facts.precisionReason,
        },
      },
    };
    yield* steps(run, deps, signal, isOwner);
    const finished = await exportResult(run, deps, (performance.now() - started) / 1000);
    if (!isOwner()) throw stopped(signal, settings.steps);
    yield { event: { case: 'finished', value: await commit(request.key, finished, deps.store) } };
    await run.checkpoints.remove();
  } finally {
    run.session.release();
    await run.dataset.close();
  }
}

async function prepare(request: TrainRequest, settings: TrainingSettings, deps: TrainingDeps): Promise<Prepared> {
  const { store, engine, logger } = deps;
  const asked = await resolvePrecision(request.settings?.precision ?? Precision.AUTO, request.runId, store, engine);
  const fingerprint = fingerprintOf(request, settings);
  const checkpoints = new Checkpoints(await store.checkpointDir(request.key), settings.keepCheckpoints, logger);
  const init = await unetSource(request.init ?? create(UnetRefSchema), store, engine);
  const opponent =
    request.opponent === undefined || settings.objective === 'sft' ? null : await unetSource(request.opponent, store, engine);
  const pipeline = engine.describePipeline(request.pipelinePath);
  const open = (precision: NativePrecision): Promise<TrainingSession> =>
    engine.createSession(init, opponent, { ...engineOptions(settings), schedulerConfig: pipeline.schedulerConfig, precision });

  let facts: CheckpointFacts = { precision: asked.precision, precisionReason: asked.reason, fingerprint };
  let startStep = 0;
  let margins = noMargins;
  let session: TrainingSession | undefined;
  for await (const { path, manifest } of checkpoints.usable()) {
    const difference = firstDifference(manifest.fingerprint, fingerprint);
    if (difference !== null) {
      throw new SpindleError(
        'FAILED_PRECONDITION',
        `${path}: the checkpoint was made with other settings: ${difference}; remove it or use another key`,
      );
    }
    // The precision that training began in stays, whatever a new measurement would say.
    const candidate = await open(manifest.precision);
    try {
      margins = readMargins((await candidate.loadState(path))['margins']);
    } catch (thrown) {
      candidate.release();
      await checkpoints.setAside(manifest.step, ensureError(thrown).message);
      continue;
    }
    session = candidate;
    facts = { precision: manifest.precision, precisionReason: manifest.precisionReason, fingerprint };
    startStep = manifest.step;
    break;
  }
  session ??= await open(facts.precision);
  try {
    const dataset = await Dataset.open(store, {
      encoded: request.encodedShards,
      generated: request.generatedShards,
      previous: request.previousShards,
      previousShare: settings.previousShare,
      against: opponentImages(settings.objective),
      key: { seed: settings.seed, iteration: settings.iteration },
      scalingFactor: pipeline.scalingFactor,
      shiftFactor: pipeline.shiftFactor,
      samplePosterior: settings.samplePosterior,
      captionDropout: settings.captionDropout,
      emptyText: settings.captionDropout > 0 ? await engine.emptyPrompt(request.pipelinePath, facts.precision) : null,
    });
    if (dataset.unmatched > 0)
      logger.warn({ key: request.key, unmatched: dataset.unmatched }, `images without a ${dataset.options.against} one are left out`);
    return { request, settings, facts, init, dataset, session, checkpoints, startStep, margins };
  } catch (thrown) {
    session.release();
    throw thrown;
  }
}

async function* steps(run: Prepared, deps: TrainingDeps, signal: AbortSignal, isOwner: () => boolean): AsyncGenerator<Response> {
  const { settings, checkpoints, session, facts } = run;
  const order = new DataOrder({ seed: settings.seed, iteration: settings.iteration }, run.dataset.size, settings.batchSize);
  let done = run.startStep;
  let kept = done;
  const save = (): Promise<Response> =>
    inSpan('trainer.checkpoint', { 'spindle.train.step': done }, async () => {
      const { manifest } = await checkpoints.save(done, facts, (path) =>
        session.saveState(path, { step: String(done), precision: facts.precision, margins: writeMargins(run.margins) }),
      );
      kept = done;
      return { event: { case: 'checkpoint', value: { step: done, bytes: BigInt(manifest.bytes) } } };
    });
  try {
    while (done < settings.steps) {
      signal.throwIfAborted();
      const value = await inSpan('trainer.step', { 'spindle.train.step': done + 1 }, () => takeStep(done, order, run, deps, signal));
      done++;
      yield { event: { case: 'step', value } };
      if (settings.checkpointSteps > 0 && done % settings.checkpointSteps === 0 && done < settings.steps && !signal.aborted)
        yield await save();
    }
  } catch (thrown) {
    const error = ensureError(thrown);
    if (error.code === 'DIVERGED') throw diverged(done, kept, error);
    throw signal.aborted ? stopped(signal, done) : error;
  } finally {
    // Also reached when the caller went away and the loop ended at a yield. Whoever lost the lease must not write any more.
    if (signal.aborted && done > kept && isOwner()) await save();
  }
}

async function takeStep(step: number, order: DataOrder, run: Prepared, deps: TrainingDeps, signal: AbortSignal): Promise<TrainStep> {
  const { settings, session, dataset } = run;
  const started = nowMs();
  const draws = order.batch(step);
  const parts: StepErrors[] = [];
  const phases: PhaseDto[] = [];
  const keep = (list: readonly PhaseDto[], began: number): void => {
    for (const phase of list) phases.push({ ...phase, startMs: phase.startMs + began - started });
  };
  const beta = settings.objective === 'sft' ? 0 : autoBeta(settings.beta, settings.autoBetaSlope, run.margins);
  for (const { offset, size } of microBatches(settings.batchSize, settings.gradientAccumulation)) {
    const batch = { ...(await dataset.batch(step, draws, offset, size)), beta: beta === 0 ? null : beta };
    const began = nowMs();
    const part = await session.accumulate(batch, signal);
    keep(part.phases, began);
    parts.push(part);
  }
  const metrics = gatherMetrics(parts);
  const broken = notFinite(metrics);
  if (broken !== null) throw new SpindleError('DIVERGED', broken);
  const began = nowMs();
  const applied = await session.apply(step, 1);
  keep(applied.phases, began);
  if (!Number.isFinite(applied.gradNorm)) throw new SpindleError('DIVERGED', `gradNorm is ${applied.gradNorm}`);
  run.margins = withMargin(run.margins, meanMargin(metrics));
  recordPhases(phases, started);
  const seconds = (nowMs() - started) / 1000;
  deps.instruments.stepDone(metrics, seconds, settings.batchSize, {
    run: run.request.runId,
    model: run.request.modelName,
    objective: settings.objective,
  });
  return {
    ...metrics,
    step: step + 1,
    gradNorm: applied.gradNorm,
    learningRate: applied.learningRate,
    beta,
    seconds,
    phases: phases.map((phase) => ({ ...phase, $typeName: 'spindle.v1.PhaseTiming' as const })),
    $typeName: 'spindle.v1.TrainStep',
  };
}

async function exportResult(run: Prepared, { store }: TrainingDeps, seconds: number): Promise<TrainFinished> {
  const folder = await store.tempDir();
  try {
    const path = join(folder, 'diffusion_pytorch_model.safetensors');
    await run.session.export(path);
    const weights = await store.putFile(path, 'application/safetensors', { move: true });
    const config = await store.put(Buffer.from(run.init.config, 'utf8'), 'application/json');
    const unet = create(UnetRefSchema, { name: run.request.modelName, config, weights });
    return create(TrainFinishedSchema, { unet, steps: run.settings.steps, seconds });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function commit(key: string, finished: TrainFinished, store: ArtifactStore): Promise<TrainFinished> {
  await store.commitResult(key, toJsonString(TrainFinishedSchema, finished));
  return finished;
}

function engineOptions({ objective, ...settings }: TrainingSettings) {
  const { schedule, beta, safeguard, minSnrGamma, learningRate, warmupSteps, steps: totalSteps } = settings;
  const { adamBeta1, adamBeta2, adamEpsilon, weightDecay, maxGradNorm, emaDecay, seed, iteration } = settings;
  return {
    // Diffusion-DPO is the logistic loss on other pairs.
    objective: objective === 'dpo' ? 'spin_logistic' : objective,
    schedule,
    beta,
    safeguard,
    minSnrGamma,
    learningRate,
    warmupSteps,
    totalSteps,
    adamBeta1,
    adamBeta2,
    adamEpsilon,
    weightDecay,
    maxGradNorm,
    emaDecay,
    seed,
    iteration,
  };
}

function diverged(step: number, kept: number, error: SpindleError): SpindleError {
  const where = kept > 0 ? `the checkpoint of step ${kept} is kept` : 'there is no checkpoint yet';
  return new SpindleError('DIVERGED', `training diverged at step ${step + 1}: ${error.message}; ${where}`, { cause: error });
}

function stopped(signal: AbortSignal, step: number): SpindleError {
  const reason = ensureError(signal.reason);
  const code = reason.code === 'INTERNAL' ? 'CANCELLED' : reason.code;
  return new SpindleError(code, `training stopped after step ${step}: ${reason.message}`, { cause: reason });
}
