/**
 * One training run, from its newest usable checkpoint to its committed result.
 *
 * States: resume (load the newest checkpoint that verifies) -> steps (accumulate, apply, report;
 * checkpoint every N) -> export -> commit. A cancelled run checkpoints the steps that are complete
 * and ends with CANCELLED; a step that was cut short left the weights alone and is done again. A
 * NaN or infinite loss or norm ends the run with DIVERGED before anything is applied.
 *
 * With ranks, every command goes to all of them, and this process, rank 0, does its share. A rank
 * that is lost costs the step at hand: what is complete is checkpointed, and training resumes from
 * there once all ranks are back.
 */
import type { MessageInitShape } from '@bufbuild/protobuf';
import { ensureError, inSpan, nowMs, recordPhases, SpindleError, type Logger } from '@spindle/kit';
import { runPrecision, type ArtifactStore } from '@spindle/mesh';
import type { ModelSourceDto, NativePrecision, TrainStepResultDto } from '@spindle/native';
import {
  enumName,
  Objective,
  ObjectiveSchema,
  OnDivergence,
  Precision,
  type ReportRequest,
  type TrainRequest,
  type TrainResponseSchema,
  type TrainStep,
} from '@spindle/proto';
import { CheckpointCopies } from './checkpoint-copies.js';
import { Checkpoints, type CheckpointFacts, type Rollbacks } from './checkpoints.js';
import {
  autoBeta,
  noMargins,
  readMargins,
  withMargin,
  writeMargins,
  type MarginAverage,
} from './domain/auto-beta.js';
import { Guard, saturatedLogit, type Alarm } from './domain/guard.js';
import {
  gatherMetrics,
  meanMargin,
  notFinite,
  saturatedShare,
  type StepMetrics,
} from './domain/metrics.js';
import { firstDifference, type TrainingSettings } from './domain/settings.js';
import type { TrainerEngine, TrainingSession } from './engine.js';
import type { Instruments } from './instruments.js';
import { RankLost, type RankCommand, type RankLeader } from './ranks/leader.js';
import { Share } from './ranks/share.js';
import { fingerprintOf, readSettings } from './request.js';
import { commit, exportResult } from './result.js';
import { openDataset, openSession, readModels } from './setup.js';

export interface TrainingDeps {
  /** Null: this process trains alone. */
  ranks: Ranks | null;
  store: ArtifactStore;
  engine: TrainerEngine;
  instruments: Instruments;
  logger: Logger;
}

type Ranks = Pick<RankLeader, 'worldSize' | 'complete' | 'newGroup' | 'together' | 'release'>;
type Response = MessageInitShape<typeof TrainResponseSchema>;

/** Losses of ranks in a row without a complete step between them. */
const maxRankLosses = 3;
/** Steps after which ranks compare their weights, where no checkpoint makes them do so before. */
const verifySteps = 100;

interface Prepared {
  request: TrainRequest;
  settings: TrainingSettings;
  facts: CheckpointFacts;
  init: ModelSourceDto;
  share: Share;
  checkpoints: Checkpoints;
  startStep: number;
  /** Of the steps so far; what auto-beta goes by. */
  margins: MarginAverage;
  rollbacks: Rollbacks;
}

/** Training goes wrong and may try again from before that: ends an attempt. */
class RollBack extends Error {
  constructor(
    readonly badSince: number,
    readonly rollbacks: Rollbacks,
    reason: string,
  ) {
    super(reason);
  }
}

const learningRateCut = 0.5;

/** Work that every rank does: `command` for the others, `own` here. */
type Together = <T>(
  command: RankCommand,
  own: (signal: AbortSignal) => Promise<T>,
  signal: AbortSignal,
) => Promise<{ own: T; reports: ReportRequest[] }>;

function togetherOf(ranks: Ranks | null): Together {
  if (ranks !== null) return (command, own, signal) => ranks.together(command, own, signal);
  return async (_command, own, signal) => ({ own: await own(signal), reports: [] });
}

/**
 * `isOwner` says whether this process is still the one that may write checkpoints and the result.
 */
export async function* train(
  request: TrainRequest,
  deps: TrainingDeps,
  signal: AbortSignal,
  isOwner: () => boolean,
): AsyncGenerator<Response> {
  const { ranks, logger } = deps;
  const settings = readSettings(request);
  if (ranks !== null && ranks.worldSize > settings.batchSize)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `settings.batch_size: expected at least one element for each of ${ranks.worldSize} ranks, got ${settings.batchSize}`,
    );
  const checkpoints = await openCheckpoints(request.key, settings, deps);
  checkpoints.mayWrite = isOwner;
  const started = performance.now();
  let best = -1;
  for (let losses = 0; ; ) {
    let reached = -1;
    try {
      for await (const response of attempt(
        request,
        settings,
        checkpoints,
        deps,
        signal,
        isOwner,
        started,
      )) {
        if (response.event?.case === 'started') reached = response.event.value.resumedStep ?? 0;
        if (response.event?.case === 'step') reached = response.event.value.step ?? 0;
        yield response;
      }
      return;
    } catch (thrown) {
      if (thrown instanceof RollBack && isOwner()) {
        yield await goBack(thrown, request, checkpoints, logger);
        continue;
      }
      if (!(thrown instanceof RankLost) || signal.aborted) throw thrown;
      losses = reached > best ? 1 : losses + 1;
      best = Math.max(best, reached);
      if (losses >= maxRankLosses)
        throw new SpindleError(
          'FAILED_PRECONDITION',
          `training stopped after step ${Math.max(0, best)}: ranks were lost ${losses} times without progress, the last time because ${thrown.message}`,
          { cause: thrown },
        );
      logger.warn(
        { err: thrown, key: request.key, step: reached },
        'a rank was lost; training resumes from its checkpoint',
      );
    }
  }
}

/**
 * Forgets what has the trouble in it, and notes the cut first: a crash in between must not forget
 * that.
 */
async function goBack(
  { badSince, rollbacks, message }: RollBack,
  request: TrainRequest,
  checkpoints: Checkpoints,
  logger: Logger,
): Promise<Response> {
  const next = {
    count: rollbacks.count + 1,
    learningRateScale: rollbacks.learningRateScale * learningRateCut,
  };
  await checkpoints.noteRollbacks(next);
  await checkpoints.dropFrom(badSince);
  const step = await checkpoints.newest();
  logger.warn(
    { key: request.key, step, ...next, reason: message },
    'training goes back to a good checkpoint',
  );
  return {
    event: {
      case: 'rolledBack',
      value: { step, reason: message, learningRateScale: next.learningRateScale },
    },
  };
}

async function openCheckpoints(
  key: string,
  settings: TrainingSettings,
  { store, logger }: TrainingDeps,
): Promise<Checkpoints> {
  const directory = await store.checkpointDir(key);
  const mirror = store.checkpointMirror(key);
  const copies = mirror === null ? null : new CheckpointCopies(mirror, directory, logger);
  return new Checkpoints(directory, settings.keepCheckpoints, logger, copies);
}

/** Until the result is committed, a rank is lost, or training goes wrong. */
async function* attempt(
  request: TrainRequest,
  settings: TrainingSettings,
  checkpoints: Checkpoints,
  deps: TrainingDeps,
  signal: AbortSignal,
  isOwner: () => boolean,
  started: number,
): AsyncGenerator<Response> {
  await deps.ranks?.complete(signal);
  try {
    const run = await prepare(request, settings, checkpoints, deps, signal);
    try {
      yield {
        event: {
          case: 'started',
          value: {
            resumedStep: run.startStep,
            steps: settings.steps,
            precision: wirePrecision(run.facts.precision),
            precisionReason: run.facts.precisionReason,
          },
        },
      };
      yield* steps(run, deps, signal, isOwner);
      const finished = await exportResult(
        { ...run, store: deps.store, session: run.share.session },
        (performance.now() - started) / 1000,
      );
      if (!isOwner()) throw stopped(signal, settings.steps);
      yield { event: { case: 'finished', value: await commit(request.key, finished, deps.store) } };
      await run.checkpoints.remove();
    } finally {
      run.share.session.release();
      await run.share.dataset.close();
    }
  } finally {
    deps.ranks?.release();
  }
}

async function prepare(
  request: TrainRequest,
  settings: TrainingSettings,
  checkpoints: Checkpoints,
  deps: TrainingDeps,
  signal: AbortSignal,
): Promise<Prepared> {
  const { store, engine, logger, ranks } = deps;
  const asked = await runPrecision(
    store,
    request.runId,
    request.settings?.precision ?? Precision.AUTO,
    () => engine.choosePrecision(),
  );
  const fingerprint = fingerprintOf(request, settings);
  await checkpoints.fetch();
  const models = await readModels(request, settings, deps);
  const together = togetherOf(ranks);
  const open = async (precision: NativePrecision): Promise<TrainingSession> => {
    const group = ranks?.newGroup() ?? null;
    const command: RankCommand = {
      case: 'open',
      value: {
        request,
        precision: wirePrecision(precision),
        groupAddress: group?.address ?? '',
        groupToken: group?.token ?? '',
        timeoutSeconds: group?.timeoutSeconds ?? 0,
      },
    };
    let session: TrainingSession | undefined;
    try {
      await together(
        command,
        async (linked) => {
          session = await openSession(models, settings, precision, engine, group, linked);
        },
        signal,
      );
    } catch (thrown) {
      session?.release();
      throw thrown;
    }
    if (session === undefined) throw new SpindleError('INTERNAL', 'the engine opened no session');
    return session;
  };

  let facts: CheckpointFacts = {
    precision: asked.precision,
    precisionReason: asked.reason,
    fingerprint,
  };
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
      const state = await candidate.loadState(path);
      margins = readMargins(state['margins']);
      if (state['warning'] !== undefined) logger.warn({ key: request.key, path }, state['warning']);
    } catch (thrown) {
      candidate.release();
      ranks?.release();
      await checkpoints.setAside(manifest.step, ensureError(thrown).message);
      continue;
    }
    session = candidate;
    facts = {
      precision: manifest.precision,
      precisionReason: manifest.precisionReason,
      fingerprint,
    };
    startStep = manifest.step;
    break;
  }
  const chosen = session ?? (await open(facts.precision));
  try {
    await together({ case: 'share', value: {} }, (linked) => chosen.broadcastState(linked), signal);
    const dataset = await openDataset(request, settings, models.pipeline, facts.precision, deps);
    if (dataset.unmatched > 0)
      logger.warn(
        { key: request.key, unmatched: dataset.unmatched },
        `images without a ${dataset.options.against} one are left out`,
      );
    const share = new Share(chosen, dataset, settings, 0, ranks?.worldSize ?? 1);
    const rollbacks = await checkpoints.rollbacks();
    return {
      request,
      settings,
      facts,
      init: models.init,
      share,
      checkpoints,
      startStep,
      margins,
      rollbacks,
    };
  } catch (thrown) {
    chosen.release();
    throw thrown;
  }
}

async function* steps(
  run: Prepared,
  deps: TrainingDeps,
  signal: AbortSignal,
  isOwner: () => boolean,
): AsyncGenerator<Response> {
  const { settings, checkpoints, facts } = run;
  const { session } = run.share;
  const together = togetherOf(deps.ranks);
  let done = run.startStep;
  let kept = done;
  let lost: RankLost | undefined;
  const save = (): Promise<Response> =>
    inSpan('trainer.checkpoint', { 'spindle.train.step': done }, async () => {
      const { manifest } = await checkpoints.save(done, facts, (path) =>
        session.saveState(path, {
          step: String(done),
          precision: facts.precision,
          margins: writeMargins(run.margins),
        }),
      );
      kept = done;
      return {
        event: { case: 'checkpoint', value: { step: done, bytes: BigInt(manifest.bytes) } },
      };
    });
  const guard = new Guard(settings.objective);
  let ended: Error | undefined;
  /** What ends the attempt: a rollback while that is asked for and of use, else the training. */
  const wentWrong = async (
    badSince: number,
    step: number,
    reason: string,
    cause?: SpindleError,
  ): Promise<Error> => {
    const again =
      settings.onDivergence === OnDivergence.ROLLBACK &&
      run.rollbacks.count < settings.maxRollbacks &&
      done > 0;
    if (again) return new RollBack(badSince, run.rollbacks, `step ${step}: ${reason}`);
    if (cause === undefined && isOwner()) await checkpoints.dropFrom(badSince);
    return diverged(step, await checkpoints.newest(), run.rollbacks.count, reason, cause);
  };
  const attributes =
    deps.ranks === null ? {} : { 'spindle.rank': 0, 'spindle.world_size': deps.ranks.worldSize };
  try {
    while (done < settings.steps) {
      signal.throwIfAborted();
      const taken = await inSpan(
        'trainer.step',
        { 'spindle.train.step': done + 1, ...attributes },
        () => takeStep(done, run, deps, signal),
      );
      done++;
      yield { event: { case: 'step', value: taken.step } };
      const alarms = guard.observe({ ...taken.step, saturated: taken.saturated });
      for (const alarm of alarms) yield raise(alarm, run, deps);
      const [worst] = [...alarms].sort((a, b) => a.badSince - b.badSince);
      if (worst && settings.onDivergence !== OnDivergence.WARN)
        throw (ended = await wentWrong(worst.badSince, worst.step, worst.message));
      if (taken.lost !== undefined) throw taken.lost;
      const saves =
        settings.checkpointSteps > 0 &&
        done % settings.checkpointSteps === 0 &&
        done < settings.steps;
      if ((saves || done % verifySteps === 0 || done === settings.steps) && !signal.aborted)
        await together(
          { case: 'verify', value: {} },
          (linked) => session.verifyRanks(linked),
          signal,
        );
      if (saves && !signal.aborted) yield await save();
    }
  } catch (thrown) {
    const error = ensureError(thrown);
    if (thrown === ended) throw thrown;
    if (error.code === 'DIVERGED') throw await wentWrong(done, done + 1, error.message, error);
    if (error instanceof RankLost) lost = error;
    throw signal.aborted ? stopped(signal, done) : error;
  } finally {
    // Also reached when the caller went away and the loop ended at a yield. Whoever lost the lease
    // must not write any more.
    if ((signal.aborted || lost !== undefined) && done > kept && isOwner()) await save();
    // A machine that goes away takes its folder with it.
    if (signal.aborted) await checkpoints.settled();
  }
}

function raise(
  { kind, step, message }: Alarm,
  { request }: Prepared,
  { logger, instruments }: TrainingDeps,
): Response {
  logger.warn({ key: request.key, step, kind }, `alarm: ${message}`);
  instruments.alarm(kind, { run: request.runId, model: request.modelName });
  return { event: { case: 'alarm', value: { step, kind, message } } };
}

async function takeStep(
  step: number,
  run: Prepared,
  deps: TrainingDeps,
  signal: AbortSignal,
): Promise<{ step: TrainStep; saturated: number; lost: RankLost | undefined }> {
  const { settings, share } = run;
  const together = togetherOf(deps.ranks);
  const started = nowMs();
  const beta =
    settings.objective === Objective.SFT
      ? 0
      : autoBeta(settings.beta, settings.autoBetaSlope, run.margins);
  const { own, reports } = await together(
    { case: 'gradients', value: { step, beta } },
    (linked) => share.gradients(step, beta, linked),
    signal,
  );
  const phases = [...own.phases];
  // On a device they come with the step, and a step whose numbers are not finite changes nothing
  // there.
  const parts = [...own.parts, ...reports.flatMap((report) => report.parts)];
  expectFinite(gatherMetrics(parts));
  const began = nowMs();
  let result: TrainStepResultDto | undefined;
  let lost: RankLost | undefined;
  try {
    const { learningRateScale } = run.rollbacks;
    const { reports: applied } = await together(
      { case: 'apply', value: { step, learningRateScale } },
      async (linked) => {
        await share.stage(step + 1);
        result = await share.session.apply(step, learningRateScale, linked);
        parts.push(...result.errors);
      },
      signal,
    );
    parts.push(...applied.flatMap((report) => report.parts));
  } catch (thrown) {
    // Rank 0 has taken the step all the same: it counts, and can be kept.
    if (result === undefined || !(thrown instanceof RankLost)) throw thrown;
    lost = thrown;
  }
  const applied: TrainStepResultDto | undefined = result;
  if (applied === undefined)
    throw new SpindleError('INTERNAL', `step ${step + 1}: the engine applied nothing`);
  const metrics = gatherMetrics(parts);
  expectFinite(metrics);
  for (const phase of applied.phases)
    phases.push({ ...phase, startMs: phase.startMs + began - started });
  if (!Number.isFinite(applied.gradNorm))
    throw new SpindleError('DIVERGED', `gradNorm is ${applied.gradNorm}`);
  run.margins = withMargin(run.margins, meanMargin(metrics));
  recordPhases(phases, started);
  const seconds = (nowMs() - started) / 1000;
  deps.instruments.stepDone(metrics, seconds, settings.batchSize, {
    run: run.request.runId,
    model: run.request.modelName,
    objective: enumName(ObjectiveSchema, settings.objective),
  });
  const taken: TrainStep = {
    ...metrics,
    step: step + 1,
    gradNorm: applied.gradNorm,
    learningRate: applied.learningRate,
    beta,
    seconds,
    phases: phases.map((phase) => ({ ...phase, $typeName: 'spindle.v1.PhaseTiming' as const })),
    $typeName: 'spindle.v1.TrainStep',
  };
  return { step: taken, saturated: saturatedShare(parts, beta, saturatedLogit), lost };
}

function expectFinite(metrics: StepMetrics): void {
  const broken = notFinite(metrics);
  if (broken !== null) throw new SpindleError('DIVERGED', broken);
}

function wirePrecision(precision: NativePrecision): Precision {
  return precision === 'float32' ? Precision.FLOAT32 : Precision.BFLOAT16;
}

function diverged(
  step: number,
  kept: number,
  rollbacks: number,
  reason: string,
  cause?: SpindleError,
): SpindleError {
  const where = kept > 0 ? `the checkpoint of step ${kept} is kept` : 'there is no checkpoint yet';
  const after = rollbacks > 0 ? `, after ${rollbacks} rollbacks` : '';
  return new SpindleError(
    'DIVERGED',
    `training diverged at step ${step}${after}: ${reason}; ${where}`,
    { cause },
  );
}

function stopped(signal: AbortSignal, step: number): SpindleError {
  const reason = ensureError(signal.reason);
  const code = reason.code === 'INTERNAL' ? 'CANCELLED' : reason.code;
  return new SpindleError(code, `training stopped after step ${step}: ${reason.message}`, {
    cause: reason,
  });
}
