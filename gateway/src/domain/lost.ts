/** Going back to what was done and is lost: jobs are deterministic, so the same comes again. */
import { mayBegin } from './early-start.js';
import { modelName, parseModel, type Model } from './model.js';
import { judgedSteps, stagesOf } from './plan.js';
import { judgedBy, stageName } from './stage.js';
import { isOver, stageOf, warn, type Letter, type RunState, type StageState } from './state.js';

/** Results that are damaged or gone, of jobs and of trainings. */
export interface Lost {
  shards: { stage: string; shard: number }[];
  models: string[];
  /** Keys of the config whose lists were lost, and are there again. */
  texts: string[];
}

/** What is lost more often than this is not made again: something damages it each time. */
const mostTimes = 3;

/** Whether it has not been made again too often. */
export function mayBeRedone(state: RunState, stage: string, shard: number): boolean {
  const times = stageOf(state, stage).redone?.filter((other) => other === shard).length ?? 0;
  return times < mostTimes;
}

/** The same of a list that is read from the config's files. */
export function mayBeRestored({ restored }: Pick<RunState, 'restored'>, key: string): boolean {
  return (restored?.[key] ?? 0) < mostTimes;
}

/**
 * Records a loss in place: the stages of what is lost wait again, and so does every stage that was
 * running and comes after them. False when it means nothing here.
 */
export function inputsLost(
  next: RunState,
  { shards, models, texts, letter, at }: Lost & { letter?: Letter; at: number },
): boolean {
  if (next.status !== 'running') return false;
  for (const { stage, shard } of shards) loseShard(next, stage, shard, at);
  for (const model of models) loseModel(next, parseModel(model), at);
  for (const key of texts) {
    warn(next, `${key}: the run's list was damaged or lost and is made again from the files`);
    next.restored = { ...next.restored, [key]: (next.restored?.[key] ?? 0) + 1 };
  }
  const closed = closedStages(next);
  for (const stage of stagesOf(next.plan)) {
    const own = stageOf(next, stage.name);
    if (own.status === 'running' && !mayBegin(next, stage, closed)) hold(own, at);
  }
  // The job is published again when its stage goes on.
  if (letter) next.forgiven = { ...next.forgiven, [letter.key]: letter.at };
  next.round += 1;
  return true;
}

function loseShard(next: RunState, name: string, shard: number, at: number): void {
  const own = stageOf(next, name);
  if (!own.done.includes(shard) || isJudged(next, name, shard)) return;
  warn(next, `${name}: the result of shard ${shard} was damaged and is made again`);
  reopen(own, shard, at);
  // Judging is over only when drawing is; a score that is whole is found again at once.
  const judge = stagesOf(next.plan).find((one) => judgedBy(one) === name);
  const judging = judge && next.stages[judge.name];
  if (judging?.done.includes(shard)) reopen(judging, shard, at);
}

/** Images that were drawn while a training went on are needed until they are judged. */
function isJudged({ plan, training }: RunState, name: string, shard: number): boolean {
  const stage = stagesOf(plan).find((one) => one.name === name);
  if (stage?.kind !== 'judge-sample') return false;
  const step = judgedSteps(plan, stage.model)[shard];
  return step !== undefined && step in (training[modelName(stage.model)]?.judged ?? {});
}

function loseModel(next: RunState, model: Model, at: number): void {
  const training = next.training[modelName(model)];
  if (!training?.unet) return;
  const name = stageName({ kind: 'train', model });
  warn(next, `${name}: the weights were damaged and are made again`);
  training.unet = null;
  delete training.average;
  // Their scores stand: the same weights come again.
  delete training.snapshots;
  reopen(stageOf(next, name), 0, at);
}

function reopen(own: StageState, shard: number, at: number): void {
  own.done = own.done.filter((other) => other !== shard);
  own.redone = [...(own.redone ?? []), shard];
  hold(own, at);
}

/** It waits again; its clock stands still. */
export function hold(own: StageState, at: number): void {
  closeClock(own, at);
  own.status = 'waiting';
}

/** Stops a stage's clock, if it runs. */
export function closeClock(stage: StageState, at: number): void {
  if (stage.since !== null) stage.activeMs += Math.max(0, at - stage.since);
  stage.since = null;
}

/** Names of stages that are over, and all that come before them too. */
export function closedStages(state: RunState): ReadonlySet<string> {
  const closed = new Set<string>();
  // In the order of the plan: what comes before a stage is listed before it.
  for (const { name, after } of stagesOf(state.plan))
    if (isOver(stageOf(state, name)) && after.every((before) => closed.has(before)))
      closed.add(name);
  return closed;
}
