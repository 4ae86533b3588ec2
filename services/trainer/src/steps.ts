/**
 * The second phase of an attempt. It takes step after step and reports each, with the guard's
 * alarms. Checkpoints are written every so many steps, and of what is complete on the way out.
 */
import { ensureError, inSpan, nowMs, SpindleError } from '@spindle/kit';
import { Objective, OnDivergence, type TrainStep } from '@spindle/proto';
import type { Response, TrainCall } from './call.js';
import { autoBeta, withMargin, writeMargins, type MarginAverage } from './domain/auto-beta.js';
import { Guard, type Alarm } from './domain/guard.js';
import { divergence, remedy, type Outcome, type Trouble } from './domain/recovery.js';
import { withReport, writeReports } from './recent-steps.js';
import { RankLost } from './ranks/ranks.js';
import type { OpenTraining } from './resume.js';
import { leaveMissingSnapshot, leaveSnapshot } from './snapshots.js';
import { takeStep, type TakenStep } from './step.js';

/** Why not all steps were taken. */
type Interruption = Exclude<Outcome, { kind: 'finished' }>;

/** How often a caller hears that training waits. */
const tellMs = 5_000;

/** Ranks compare their weights every so many steps, before each checkpoint, and at the end. */
const verifySteps = 100;

export class Steps {
  readonly #guard: Guard;
  #done: number;
  /** The step of the newest checkpoint. */
  #kept: number;
  #margins: MarginAverage;
  #recent: TrainStep[];

  constructor(
    readonly call: TrainCall,
    readonly training: OpenTraining,
  ) {
    const { objective, warmupSteps } = call.settings;
    this.#guard = new Guard(objective, warmupSteps);
    this.#done = training.startStep;
    this.#kept = training.startStep;
    this.#margins = training.margins;
    this.#recent = training.recent;
  }

  /** Reports of the last steps. */
  get recent(): readonly TrainStep[] {
    return this.#recent;
  }

  /** Reports what it does; returns null once all steps are taken. */
  async *run(): AsyncGenerator<Response, Interruption | null> {
    const { settings, signal, mayFinish, checkpoints } = this.call;
    let interruption: Interruption | null = null;
    try {
      // Whoever was stopped after the step has checkpointed it alone.
      const left = await leaveMissingSnapshot(this.call, this.training, this.#done);
      if (left) yield left;
      while (interruption === null && this.#done < settings.steps) {
        signal.throwIfAborted();
        yield* this.#images();
        interruption = yield* this.#one();
      }
    } catch (thrown) {
      interruption = await this.#interrupted(ensureError(thrown));
    } finally {
      // This is also reached when the caller went away and the loop ended at a yield. Whoever lost
      // the lease to another one must not write any more.
      const leaves = signal.aborted || interruption?.kind === 'rankLost';
      if (leaves && this.#done > this.#kept && (await mayFinish())) await this.#save();
      // The machine may go away now, and its folder with it.
      if (signal.aborted) await checkpoints.settled();
    }
    return interruption;
  }

  /** Waits for the next step's images. */
  async *#images(): AsyncGenerator<Response> {
    const { request, signal, deps } = this.call;
    const { own } = this.training;
    const step = this.#done;
    if (await own.isReady(step)) return;
    const began = nowMs();
    const waiting = { key: request.key, step: step + 1, images: own.incoming?.missing ?? '' };
    deps.logger.info(waiting, 'training waits for images');
    try {
      let told = -Infinity;
      do {
        if (nowMs() - told < tellMs) continue;
        told = nowMs();
        const key = own.incoming?.missing ?? '';
        yield { event: { case: 'waiting', value: { step: step + 1, key } } };
      } while (!(await own.ready(step, signal)));
    } finally {
      const seconds = (nowMs() - began) / 1000;
      deps.instruments.starved(seconds, { run: request.runId, model: request.modelName });
      deps.logger.info({ ...waiting, seconds }, 'training no longer waits for images');
    }
  }

  async *#one(): AsyncGenerator<Response, Interruption | null> {
    const { settings, signal } = this.call;
    const { report, saturated, margin, lost } = await this.#take();
    this.#margins = withMargin(this.#margins, margin);
    this.#recent = withReport(this.#recent, report);
    this.#done++;
    yield { event: { case: 'step', value: report } };
    const alarms = this.#guard.observe({ ...report, saturated });
    for (const alarm of alarms) yield this.#raise(alarm);
    const bad = alarms.flatMap(({ badSince, ...alarm }) =>
      badSince === null ? [] : [{ ...alarm, badSince }],
    );
    const [worst] = bad.sort((a, b) => a.badSince - b.badSince);
    if (worst && settings.onDivergence !== OnDivergence.WARN) {
      const { step, message: reason, badSince } = worst;
      return this.#troubled({ step, reason, badSince, cause: null });
    }
    if (lost !== undefined) throw lost;
    // Before a checkpoint of the step: who resumes from that does not come back here.
    const left = signal.aborted ? null : await leaveSnapshot(this.call, this.training, this.#done);
    if (left) yield left;
    const saves =
      settings.checkpointSteps > 0 &&
      this.#done % settings.checkpointSteps === 0 &&
      this.#done < settings.steps;
    const verifies = saves || this.#done % verifySteps === 0 || this.#done === settings.steps;
    if (verifies && !signal.aborted) await this.#verify();
    if (saves && !signal.aborted) yield await this.#save();
    return null;
  }

  #take(): Promise<TakenStep> {
    const { settings, deps } = this.call;
    const { own, rollbacks } = this.training;
    const { worldSize } = deps.ranks;
    const beta =
      settings.objective === Objective.SFT
        ? 0
        : autoBeta(settings.beta, settings.autoBetaSlope, this.#margins);
    const { learningRateScale } = rollbacks;
    const plan = { step: this.#done, beta, learningRateScale };
    const attributes = {
      'spindle.train.step': this.#done + 1,
      ...(worldSize > 1 && { 'spindle.rank': 0, 'spindle.world_size': worldSize }),
    };
    return inSpan('trainer.step', attributes, () => takeStep(plan, own, this.call));
  }

  async #verify(): Promise<void> {
    await this.call.deps.ranks.onAllRanks(
      { case: 'verify', value: {} },
      (linked) => this.training.own.session.verifyRanks(linked),
      this.call.signal,
    );
  }

  #save(): Promise<Response> {
    const step = this.#done;
    const { facts, own } = this.training;
    return inSpan('trainer.checkpoint', { 'spindle.train.step': step }, async () => {
      const generatedShards = await own.incoming?.fingerprint();
      const fingerprint = {
        ...facts.fingerprint,
        ...(generatedShards !== undefined && { generatedShards }),
      };
      const known = { ...facts, fingerprint };
      const { manifest } = await this.call.checkpoints.save(step, known, (path) =>
        own.session.saveState(path, {
          step: String(step),
          precision: facts.precision,
          margins: writeMargins(this.#margins),
          reports: writeReports(this.#recent),
        }),
      );
      this.#kept = step;
      return { event: { case: 'checkpoint', value: { step, bytes: BigInt(manifest.bytes) } } };
    });
  }

  #raise({ kind, step, message }: Alarm): Response {
    const { request, deps } = this.call;
    deps.logger.warn({ key: request.key, step, kind }, `alarm: ${message}`);
    deps.instruments.alarm(kind, { run: request.runId, model: request.modelName });
    return { event: { case: 'alarm', value: { step, kind, message } } };
  }

  async #interrupted(error: SpindleError): Promise<Interruption> {
    const done = this.#done;
    if (error.code === 'DIVERGED') {
      const { message: reason } = error;
      return this.#troubled({ step: done + 1, reason, badSince: done, cause: error });
    }
    const { signal } = this.call;
    if (signal.aborted) return { kind: 'stopped', error: stoppedAfter(done, signal) };
    if (error instanceof RankLost) return { kind: 'rankLost', reached: done, error };
    return { kind: 'failed', error };
  }

  async #troubled(trouble: Trouble): Promise<Interruption> {
    const { settings, checkpoints, isOwner } = this.call;
    const { rollbacks } = this.training;
    const what = remedy(trouble, settings, rollbacks, this.#done);
    if (what.kind === 'rollBack') return { kind: 'rolledBack', trouble, rollbacks };
    if (what.dropFrom !== null && isOwner()) await checkpoints.dropFrom(what.dropFrom);
    const message = divergence(trouble, await checkpoints.newest(), rollbacks.count);
    const { cause } = trouble;
    return { kind: 'failed', error: new SpindleError('DIVERGED', message, { cause }) };
  }
}

/** The error for a caller whose training was stopped after `step`. */
export function stoppedAfter(step: number, signal: AbortSignal): SpindleError {
  const reason = ensureError(signal.reason);
  const code = reason.code === 'INTERNAL' ? 'CANCELLED' : reason.code;
  return new SpindleError(code, `training stopped after step ${step}: ${reason.message}`, {
    cause: reason,
  });
}
