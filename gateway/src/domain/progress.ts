/** Rates and remaining times, from the stages' own clocks. */
import { isBaseline, modelName } from './model.js';
import { stagesOf } from './plan.js';
import { hasJobs, isOfSteps, stageName, type Stage } from './stage.js';
import {
  stageOf,
  type RunState,
  type RunStatus,
  type StageState,
  type StageStatus,
} from './state.js';

export interface StageProgress {
  stage: string;
  state: StageStatus | 'paused' | 'stopped';
  done: number;
  total: number;
  /** Items per second, 0 while unknown. */
  rate: number;
  /** Negative while unknown. */
  etaSeconds: number;
  seconds: number;
}

export function progressOf(
  state: RunState,
  now: number,
): { stages: StageProgress[]; etaSeconds: number } {
  const all = stagesOf(state.plan);
  const rates = new Map(all.map((stage) => [stage.name, ownRate(state, stage, now)]));
  let total = 0;
  let known = state.status === 'running' || state.status === 'queued' || state.status === 'paused';
  const stages: StageProgress[] = [];
  const etas = new Map<string, number>();
  for (const stage of all) {
    const own = stageOf(state, stage.name);
    const rate = rates.get(stage.name) || rateOfAlike(all, stage, rates);
    const left = Math.max(0, stage.items - own.items);
    const open = own.status === 'waiting' || own.status === 'running';
    const eta = !open
      ? 0
      : isOfSteps(stage.kind)
        ? (etas.get(trainingOf(stage)) ?? 0)
        : rate > 0
          ? left / rate
          : hasJobs(stage.kind) || stage.kind === 'train'
            ? -1
            : 0;
    // What is drawn beside training costs the run only the longer of the two times.
    const beside = stage.early === undefined ? 0 : Math.max(0, etas.get(stage.early.stage) ?? 0);
    etas.set(stage.name, eta);
    if (eta < 0) known = false;
    else if (!isOfSteps(stage.kind)) total += Math.max(0, eta - beside);
    // Statistics take no time worth a line.
    if (stage.kind === 'evaluate') continue;
    stages.push({
      stage: stage.name,
      state: shownState(state.status, own.status),
      done: own.items,
      total: stage.items,
      rate: rates.get(stage.name) ?? 0,
      etaSeconds: eta < 0 || !open ? eta : Math.max(eta, beside),
      seconds: activeSeconds(own, now),
    });
  }
  return { stages, etaSeconds: known ? total : -1 };
}

/** What is judged while a training goes on ends with it. */
function trainingOf(stage: Stage): string {
  return 'model' in stage ? stageName({ kind: 'train', model: stage.model }) : '';
}

/** In a run that does not run, no stage does, whatever it will go on with. */
function shownState(run: RunStatus, stage: StageStatus): StageProgress['state'] {
  if (stage !== 'running' || run === 'running') return stage;
  return run === 'failed' || run === 'cancelled' ? 'stopped' : 'paused';
}

function activeSeconds(stage: StageState, now: number): number {
  return (stage.activeMs + (stage.since === null ? 0 : Math.max(0, now - stage.since))) / 1000;
}

function ownRate(state: RunState, stage: Stage, now: number): number {
  const own = stageOf(state, stage.name);
  const recent =
    stage.kind === 'train' ? (state.training[modelName(stage.model)]?.recent ?? []) : [];
  if (recent.length > 0) {
    const seconds = recent.reduce((sum, entry) => sum + entry.seconds, 0) / recent.length;
    if (seconds > 0) return 1 / seconds;
  }
  const seconds = activeSeconds(own, now);
  return own.items > 0 && seconds > 0 ? own.items / seconds : 0;
}

/** A stage that has not begun will go about as fast as the last one of its kind. */
function rateOfAlike(all: readonly Stage[], stage: Stage, rates: Map<string, number>): number {
  const alike = all.filter(
    (other) => family(other) === family(stage) && (rates.get(other.name) ?? 0) > 0,
  );
  const last = alike.at(-1);
  return last ? (rates.get(last.name) ?? 0) : 0;
}

/** Stages that go about as fast as each other. */
function family(stage: Stage): string {
  switch (stage.kind) {
    case 'train':
      return isBaseline(stage.model) ? modelName(stage.model) : 'spin';
    case 'sample':
    case 'eval-sample':
      return 'sample';
    // As fast as their training.
    case 'judge-sample':
    case 'judge-score':
    case 'encode':
    case 'score':
    case 'eval-score':
    case 'evaluate':
    case 'report':
      return stage.kind;
  }
}
