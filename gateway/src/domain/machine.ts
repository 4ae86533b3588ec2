/**
 * The run as a state machine: state + event -> new state. No I/O, no clock: every event carries its
 * time.
 *
 * Run status: queued -start-> running -(report written)-> succeeded
 *               running <-pause/resume-> paused; running -(too much lost, training failed)-> failed
 *               -resume-> running
 *               queued, running, paused -cancel-> cancelled, which is final.
 *               succeeded -resume-> running: only what is missing of what it left is made again.
 * Stage status: waiting -(stages before it are done or skipped)-> running -> done | failed;
 * waiting, running -stop-> skipped.
 *
 * Facts (a finished job, a training step) are recorded in every status but the final ones;
 * conclusions (a stage is done, the next one starts, too much is lost) are drawn only while the run
 * is running. So the order in which facts arrive does not matter, a paused run starts nothing, and
 * a fact that arrives twice changes nothing. What has to happen in a state is derived from it
 * (work.ts), so a restart needs nothing but the state.
 */
import type { StepNumbers } from '@spindle/proto';
import type { Judgement } from './judging.js';
import { modelName, parseModel } from './model.js';
import { judgedSteps, stagesOf } from './plan.js';
import { bestModel, mergedResults, stopsAfter } from './selection.js';
import { encodedRows, shardSize } from './shards.js';
import { hasJobs, isOfRows, judgedBy, stageName, type Stage } from './stage.js';
import {
  isFinal,
  isForgiven,
  isOver,
  leftOutOf,
  stageOf,
  warn,
  type Letter,
  type RunStatus,
  type ModelSummary,
  type RunState,
  type Snapshot,
  type StageState,
} from './state.js';
import { mayBegin } from './early-start.js';
import { closeClock, closedStages, hold, inputsLost, type Lost } from './lost.js';
import { missingItems } from './missing.js';
import { recordStep, rewind, trainingOf } from './training.js';

/** What a finished job of a stage adds to what is known. */
export interface DoneJob {
  shard: number;
  rejected: number[];
  truncated: number;
  /** Pairs that its scores have training leave out. */
  leftOut?: number;
  /** Of a judged step: its images' scores. */
  judgement?: Judgement;
}

export type RunEvent = { at: number } & (
  | { type: 'start' }
  | { type: 'pause'; reason: string; letter?: Letter }
  | { type: 'resume'; forgiven: Record<string, number> }
  | { type: 'cancel'; reason: string }
  /** A gateway took the run over: the time in between counts for no stage. */
  | { type: 'adopted' }
  /** The queue no longer holds jobs that it should. */
  | { type: 'jobs-lost' }
  | { type: 'jobs-done'; stage: string; jobs: DoneJob[] }
  | {
      type: 'job-dead';
      stage: string;
      shard: number;
      reason: string;
      attempts: number;
      letter?: Letter;
    }
  /** What was done before is damaged or gone, and is made again before what needs it goes on. */
  | ({ type: 'inputs-lost'; letter?: Letter } & Lost)
  | { type: 'train-started'; model: string; resumedStep: number }
  | { type: 'train-alarm'; model: string; step: number; message: string }
  /** Steps after this one come again, with other numbers. */
  | {
      type: 'train-rolled-back';
      model: string;
      step: number;
      reason: string;
      learningRateScale: number;
    }
  | { type: 'train-step'; model: string; metrics: StepNumbers }
  /** What a training that is judged left after a step, and ended in after the last one. */
  | { type: 'train-snapshot'; model: string; step: number; snapshot: Snapshot }
  /** `kept`: where it is judged, the step whose weights these are. */
  | ({ type: 'train-finished'; model: string; kept?: number | undefined } & Snapshot)
  | { type: 'evaluated'; model: string; results: ModelSummary[] }
  | { type: 'report-written' }
  | { type: 'failed'; stage: string; reason: string }
  | { type: 'warning'; message: string }
);

/** Never changes `state`; returns it as it is when the event means nothing in it. */
export function transition(state: RunState, event: RunEvent): RunState {
  if (isFinal(state.status) && !(event.type === 'resume' && mayResume(state.status))) return state;
  // The plan never changes, so that what follows from it is found again by it.
  const { plan, ...rest } = state;
  const next = { plan, ...structuredClone(rest) };
  if (!apply(next, event)) return state;
  settle(next, event.at);
  next.updatedAt = Math.max(state.updatedAt, event.at);
  return next;
}

/** A run that has succeeded resumes to make again what is missing of what it left. */
export function mayResume(status: RunStatus): boolean {
  return status === 'paused' || status === 'failed' || status === 'succeeded';
}

/** Records the event in place; false when it means nothing here. */
function apply(next: RunState, event: RunEvent): boolean {
  switch (event.type) {
    case 'start':
      if (next.status !== 'queued') return false;
      next.status = 'running';
      return true;
    case 'pause':
      if ((next.status !== 'queued' && next.status !== 'running') || isPast(next, event.letter))
        return false;
      stopClocks(next, event.at);
      next.status = 'paused';
      next.reason = event.reason;
      return true;
    case 'resume':
      return resume(next, event.forgiven, event.at);
    case 'cancel':
      end(next, 'cancelled', event.reason, event.at);
      return true;
    case 'adopted':
      for (const stage of Object.values(next.stages)) {
        if (stage.since === null) continue;
        stage.activeMs += Math.max(0, next.updatedAt - stage.since);
        stage.since = event.at;
      }
      return true;
    case 'jobs-lost':
      if (next.status !== 'running') return false;
      next.round += 1;
      return true;
    case 'jobs-done':
      return jobsDone(next, event);
    case 'job-dead':
      return jobDead(next, event);
    case 'inputs-lost':
      return inputsLost(next, event);
    case 'train-started': {
      rewind(next, event.model, event.resumedStep);
      stageOf(next, trainingStage(event.model)).items = event.resumedStep;
      return true;
    }
    case 'train-alarm':
      return warn(next, `${trainingStage(event.model)}: at step ${event.step} ${event.message}`);
    case 'train-rolled-back': {
      const { model, step, reason, learningRateScale } = event;
      const name = trainingStage(model);
      rewind(next, model, step);
      stageOf(next, name).items = step;
      const where = step === 0 ? 'starts over' : `goes back to step ${step}`;
      warn(next, `${name}: ${where} at ${learningRateScale} times the learning rate (${reason})`);
      return true;
    }
    case 'train-step':
      return trainStep(next, event.model, event.metrics, event.at);
    case 'train-finished': {
      const training = trainingOf(next, event.model);
      if (training.unet) return false;
      training.unet = event.unet;
      if (event.average) training.average = event.average;
      if (event.kept !== undefined) training.kept = event.kept;
      return true;
    }
    case 'train-snapshot': {
      const training = trainingOf(next, event.model);
      if (training.snapshots?.[event.step]) return false;
      training.snapshots = { ...training.snapshots, [event.step]: event.snapshot };
      return true;
    }
    case 'evaluated':
      stageOf(next, stageName({ kind: 'evaluate', model: parseModel(event.model) })).items = 1;
      next.results = mergedResults(next, event.results);
      next.bestModel = bestModel(next);
      return true;
    case 'report-written':
      stageOf(next, 'report').items = 1;
      return true;
    case 'failed':
      if (next.status !== 'running') return false;
      fail(next, event.stage, event.reason, event.at);
      return true;
    case 'warning':
      return warn(next, event.message);
  }
}

/** Events name models as states do. */
function trainingStage(model: string): string {
  return stageName({ kind: 'train', model: parseModel(model) });
}

function jobsDone(next: RunState, event: { stage: string; jobs: DoneJob[] }): boolean {
  const stage = stageOf(next, event.stage);
  if (isOver(stage)) return false;
  const done = new Set(stage.done);
  const jobs = event.jobs.filter(({ shard }) => !done.has(shard));
  if (jobs.length === 0) return false;
  for (const { shard, truncated, leftOut = 0, judgement } of jobs) {
    done.add(shard);
    if (judgement) recordJudgement(next, event.stage, shard, judgement);
    if (leftOut > 0) stage.leftOut = { ...stage.leftOut, [shard]: leftOut };
    if (!stage.redone?.includes(shard)) next.truncated += truncated;
  }
  stage.done = [...done].sort((a, b) => a - b);
  stage.dead = stage.dead.filter((dead) => !done.has(dead.shard));
  const rejected = jobs.flatMap((job) => job.rejected);
  if (rejected.length > 0)
    next.rejected = [...new Set([...next.rejected, ...rejected])].sort((a, b) => a - b);
  return true;
}

function recordJudgement(next: RunState, name: string, shard: number, judgement: Judgement): void {
  const stage = stagesOf(next.plan).find((one) => one.name === name);
  if (stage?.kind !== 'judge-score') return;
  const step = judgedSteps(next.plan, stage.model)[shard];
  const training = trainingOf(next, modelName(stage.model));
  if (step !== undefined) training.judged = { ...training.judged, [step]: judgement };
}

/** It was read before a resume that forgave it, and comes after. */
function isPast(next: RunState, letter: Letter | undefined): boolean {
  return letter !== undefined && isForgiven(next, letter);
}

function jobDead(next: RunState, event: Extract<RunEvent, { type: 'job-dead' }>): boolean {
  const stage = stageOf(next, event.stage);
  const known =
    isPast(next, event.letter) ||
    stage.done.includes(event.shard) ||
    stage.dead.some((dead) => dead.shard === event.shard);
  if (known || stage.status === 'done' || stage.status === 'skipped') return false;
  const dead = { shard: event.shard, reason: event.reason, attempts: event.attempts };
  stage.dead = [...stage.dead, dead].sort((a, b) => a.shard - b.shard);
  return true;
}

function trainStep(next: RunState, model: string, metrics: StepNumbers, at: number): boolean {
  const name = trainingStage(model);
  const stage = stageOf(next, name);
  if (stage.status === 'done' || stage.status === 'skipped') return false;
  if (!Number.isFinite(metrics.loss) || !Number.isFinite(metrics.gradNorm)) {
    const what = Number.isFinite(metrics.loss)
      ? `the gradient norm is ${metrics.gradNorm}`
      : `the loss is ${metrics.loss}`;
    // Recorded in any status: going on would only diverge again.
    fail(
      next,
      name,
      `training of ${model} diverged at step ${metrics.step}: ${what}; the last good ` +
        'checkpoint is kept',
      at,
    );
    return true;
  }
  if (!recordStep(next, model, metrics)) return false;
  stage.items = metrics.step;
  return true;
}

function resume(next: RunState, forgiven: Record<string, number>, at: number): boolean {
  if (!mayResume(next.status)) return false;
  next.forgiven = forgiven;
  if (next.status === 'succeeded') {
    // Somebody misses something that the run has left: the report stage looks at all of it.
    const report = stageOf(next, 'report');
    Object.assign(report, { status: 'waiting', items: 0, redone: [...(report.redone ?? []), 0] });
  }
  if (next.status === 'failed') {
    // What failed gets another chance; what is done stays done.
    for (const stage of Object.values(next.stages)) {
      if (stage.status === 'failed') stage.status = 'running';
      if (stage.status === 'running') stage.dead = [];
    }
  }
  for (const stage of Object.values(next.stages)) if (stage.status === 'running') stage.since = at;
  // A queued run that was paused has started nothing; it starts now.
  next.status = 'running';
  next.reason = '';
  next.round += 1;
  return true;
}

/** Draws every conclusion that the facts allow. */
function settle(next: RunState, at: number): void {
  if (next.status !== 'running') return;
  const stages = stagesOf(next.plan);
  for (let changed = true; changed; ) {
    changed = false;
    const closed = closedStages(next);
    for (const stage of stages) {
      const state = stageOf(next, stage.name);
      if (state.status === 'waiting' && mayBegin(next, stage, closed)) {
        start(next, stage, state, at);
        changed = true;
      }
      if (state.status !== 'running') continue;
      if (stage.early && !mayBegin(next, stage, closedStages(next))) hold(state, at);
      refreshItems(next, stage, state);
      const lost = tooMuchLost(next, stage, state) ?? noPairLeft(next, stage, state);
      if (lost !== null) {
        fail(next, stage.name, lost, at);
        return;
      }
      if (isComplete(next, stage, state)) {
        complete(next, stage, state, stages, at);
        changed = true;
      }
    }
  }
  if (stageOf(next, 'report').status === 'done') {
    next.status = 'succeeded';
    next.reason = '';
  }
}

function start(next: RunState, stage: Stage, state: StageState, at: number): void {
  state.status = 'running';
  state.since = at;
  if (!isOfRows(stage.kind)) return;
  const rejected = new Set(next.rejected);
  for (let shard = 0; shard < stage.shards; shard++) {
    // A shard whose rows were all rejected has nothing to draw, or to judge.
    if (shardSize(next.plan, stage, shard, rejected) === 0 && !state.done.includes(shard))
      state.done.push(shard);
  }
  state.done.sort((a, b) => a - b);
}

function isComplete(next: RunState, stage: Stage, state: StageState): boolean {
  switch (stage.kind) {
    case 'encode':
    case 'sample':
    case 'judge-sample':
    case 'eval-sample':
      return state.done.length + state.dead.length === stage.shards;
    case 'score':
    case 'judge-score':
    case 'eval-score': {
      const sampling = stageOf(next, judgedBy(stage) ?? '');
      if (sampling.status !== 'done') return false;
      const over = new Set([
        ...state.done,
        ...state.dead.map((d) => d.shard),
        ...sampling.dead.map((d) => d.shard),
      ]);
      return over.size === stage.shards;
    }
    case 'train':
      return Boolean(next.training[modelName(stage.model)]?.unet);
    case 'evaluate':
    case 'report':
      return state.items === 1;
  }
}

function complete(
  next: RunState,
  stage: Stage,
  state: StageState,
  stages: readonly Stage[],
  at: number,
): void {
  closeClock(state, at);
  state.status = 'done';
  if (stage.kind === 'train') {
    state.items = stage.items;
    if (next.plan.metrics.length === 0) next.bestModel = bestModel(next);
  }
  const missing = missingItems(next, stage, state);
  if (missing.items > 0)
    warn(
      next,
      `${stage.name}: ${missing.items} of ${stage.items} items are missing (${missing.why}); ` +
        'the run goes on without them',
    );
  const without = leftOutOf(state);
  if (without > 0 && next.plan.keepIf)
    warn(
      next,
      `${stage.name}: ${without} of ${state.items} pairs are left out of training: ` +
        `${next.plan.keepIf.metric} scores their generated image more than ` +
        `${next.plan.keepIf.margin} above the real one`,
    );
  if (stage.kind === 'encode') {
    if (next.truncated > 0)
      warn(
        next,
        `data: ${next.truncated} captions are longer than the text encoder takes and were cut`,
      );
    const lost = state.dead.flatMap((dead) => encodedRows(next.plan, dead.shard));
    next.rejected = [...new Set([...next.rejected, ...lost])].sort((a, b) => a - b);
  }
  if (stage.kind === 'evaluate' && stopsAfter(next, stage.model)) {
    skipAfter(next, stages, stage.iteration, at);
    warn(
      next,
      `stopped after iteration ${stage.iteration}: ${next.plan.stop?.metric ?? ''} no longer ` +
        `improves; the best model is ${next.bestModel}`,
    );
  }
}

function skipAfter(next: RunState, stages: readonly Stage[], iteration: number, at: number): void {
  for (const stage of stages) {
    const state = stageOf(next, stage.name);
    if (stage.iteration <= iteration || isOver(state)) continue;
    closeClock(state, at);
    state.status = 'skipped';
  }
  // Skipped jobs are purged together with all others of the run, which are then published again.
  next.round += 1;
}

function refreshItems(next: RunState, stage: Stage, state: StageState): void {
  if (!hasJobs(stage.kind)) return;
  const rejected = new Set(isOfRows(stage.kind) ? next.rejected : []);
  state.items = state.done.reduce(
    (sum, shard) => sum + shardSize(next.plan, stage, shard, rejected),
    0,
  );
}

function tooMuchLost(next: RunState, stage: Stage, state: StageState): string | null {
  const { items, why } = missingItems(next, stage, state);
  if (items === 0 || items / stage.items <= next.plan.maxMissing) return null;
  return (
    `${stage.name} lost ${items} of ${stage.items} items, more than max_missing ` +
    `${next.plan.maxMissing} allows: ${why}`
  );
}

/** Training needs a pair at least. */
function noPairLeft({ plan }: RunState, stage: Stage, state: StageState): string | null {
  const { keepIf } = plan;
  const pairs = state.items;
  if (stage.kind !== 'score' || !keepIf || pairs === 0 || leftOutOf(state) < pairs) return null;
  if (state.done.length + state.dead.length < stage.shards) return null;
  return (
    `objective.keep_if: expected a pair whose generated image ${keepIf.metric} scores at most ` +
    `${keepIf.margin} above the real one, got none of ${pairs} in ${stage.name}; a larger margin ` +
    'keeps more'
  );
}

function fail(next: RunState, stage: string, reason: string, at: number): void {
  stageOf(next, stage).status = 'failed';
  end(next, 'failed', reason, at);
}

function end(next: RunState, status: 'failed' | 'cancelled', reason: string, at: number): void {
  stopClocks(next, at);
  next.status = status;
  next.reason = reason;
}

function stopClocks(next: RunState, at: number): void {
  for (const stage of Object.values(next.stages)) closeClock(stage, at);
}
