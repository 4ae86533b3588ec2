/**
 * What has to happen in a state, and which commands lead from one state's work to the next one's.
 */
import type { StepNumbers } from '@spindle/proto';
import { modelName, sameModel, type Model } from './model.js';
import { judgedSteps, stagesOf } from './plan.js';
import { isSettled, neededNoMore } from './snapshots.js';
import { hasJobs, isOfSteps, judgedBy, type Stage, type StageKind } from './stage.js';
import { stageOf, type ModelSummary, type RunState } from './state.js';

/** What each command says beside its type. */
interface CommandFields {
  /** Takes every job of the run off the queue; comes before any publish. */
  purge: object;
  publish: { stage: string; shards: number[] };
  train: { model: Model };
  'stop-training': { model: Model };
  /** Weights of these steps are needed no more. */
  'drop-snapshots': { model: Model; steps: number[] };
  evaluate: { model: Model };
  report: object;
}

export type CommandType = keyof CommandFields;
/** Something to do about a state; of one type, or of any. */
export type Command<T extends CommandType = CommandType> = {
  [K in T]: { type: K } & CommandFields[K];
}[T];

export type Announcement =
  | { type: 'run-changed'; status: string; reason: string }
  | { type: 'stage-changed'; stage: string; state: string; done: number; total: number }
  | { type: 'train-step'; model: string; steps: number; metrics: StepNumbers }
  | { type: 'model-evaluated'; summary: ModelSummary }
  | { type: 'warning'; message: string };

export interface Work {
  /** Outstanding shards per running stage, in the order in which they should be worked off. */
  jobs: Map<string, number[]>;
  training: Model | null;
  evaluating: Model[];
  report: boolean;
}

/** By state, which never changes: what comes after one is compared with what was before it. */
const known = new WeakMap<RunState, Work>();

/** Nothing unless the run is running. */
export function workOf(state: RunState): Work {
  const work = known.get(state) ?? findWork(state);
  known.set(state, work);
  return work;
}

function findWork(state: RunState): Work {
  const work: Work = { jobs: new Map(), training: null, evaluating: [], report: false };
  if (state.status !== 'running') return work;
  const open: { kind: StageKind; name: string; shards: number[] }[] = [];
  for (const stage of stagesOf(state.plan)) {
    const own = stageOf(state, stage.name);
    if (own.status !== 'running') continue;
    switch (stage.kind) {
      case 'train':
        work.training = stage.model;
        break;
      case 'evaluate':
        work.evaluating.push(stage.model);
        break;
      case 'report':
        work.report = true;
        break;
      case 'encode':
      case 'sample':
      case 'score':
      case 'judge-sample':
      case 'judge-score':
      case 'eval-sample':
      case 'eval-score': {
        const over = new Set([...own.done, ...own.dead.map((dead) => dead.shard)]);
        const shards = readyShards(state, stage).filter((shard) => !over.has(shard));
        if (shards.length > 0) open.push({ kind: stage.kind, name: stage.name, shards });
      }
    }
  }
  // Sampling is what the next training waits for. On a shared device that training waits for the
  // evaluation too, and judging overlaps drawing.
  // What a training that goes on is judged by comes after what it draws for itself.
  const isLast = ({ kind }: { kind: StageKind }): boolean =>
    state.plan.sharedDevice ? kind === 'sample' : kind === 'eval-sample' || kind === 'eval-score';
  const place = (one: { kind: StageKind }): number =>
    isLast(one) ? 2 : isOfSteps(one.kind) ? 1 : 0;
  open.sort((a, b) => place(a) - place(b));
  work.jobs = new Map(open.map(({ name, shards }) => [name, shards]));
  return work;
}

/**
 * A shard is scored as soon as it is drawn, and drawn as soon as the training has left the weights
 * of its step; others are ready when their stage runs.
 */
function readyShards(state: RunState, stage: Stage): readonly number[] {
  if (stage.kind === 'judge-sample') {
    const { snapshots = {} } = state.training[modelName(stage.model)] ?? {};
    const steps = judgedSteps(state.plan, stage.model);
    return steps.flatMap((step, shard) => (snapshots[step] ? [shard] : []));
  }
  const drawing = judgedBy(stage);
  return drawing === undefined
    ? Array.from({ length: stage.shards }, (_, i) => i)
    : stageOf(state, drawing).done;
}

/**
 * Commands that turn the work of `before` into that of `after`; `null` before means that nothing is
 * under way.
 */
export function commandsBetween(before: RunState | null, after: RunState): Command[] {
  const commands: Command[] = [];
  const was = before && workOf(before);
  const now = workOf(after);
  const stopped = after.status !== 'running';
  const skipped =
    before !== null &&
    Object.entries(after.stages).some(
      ([name, s]) => s.status === 'skipped' && before.stages[name]?.status !== 'skipped',
    );
  const again = before === null || before.round !== after.round;
  // What is on the queue of an earlier round is published again, or must not be done now.
  const replaced = !stopped && before?.status === 'running' && again;
  if ((stopped && before?.status === 'running') || skipped || replaced)
    commands.push({ type: 'purge' });

  for (const [stage, shards] of now.jobs) {
    const published = again ? [] : (was?.jobs.get(stage) ?? []);
    const known = new Set(published);
    const fresh = shards.filter((shard) => !known.has(shard));
    if (fresh.length > 0) commands.push({ type: 'publish', stage, shards: fresh });
  }
  const trained = was?.training ?? null;
  if (trained && !sameModel(trained, now.training) && !after.training[modelName(trained)]?.unet) {
    commands.push({ type: 'stop-training', model: trained });
  }
  if (now.training && !sameModel(now.training, trained)) {
    commands.push({ type: 'train', model: now.training });
  }
  commands.push(...drops(before, after));
  for (const model of now.evaluating) {
    if (!was?.evaluating.some((other) => sameModel(other, model))) {
      commands.push({ type: 'evaluate', model });
    }
  }
  if (now.report && !was?.report) commands.push({ type: 'report' });
  return commands;
}

/** Once all is settled, all of them again: a trainer that resumes leaves some twice. */
function drops(before: RunState | null, after: RunState): Command[] {
  return stagesOf(after.plan).flatMap((stage) => {
    if (stage.kind !== 'judge-score') return [];
    const { model } = stage;
    const same = before && isSettled(before, model) === isSettled(after, model) ? before : null;
    const known = new Set(same ? neededNoMore(same, model) : []);
    const steps = neededNoMore(after, model).filter((step) => !known.has(step));
    return steps.length === 0 ? [] : [{ type: 'drop-snapshots' as const, model, steps }];
  });
}

/** What people should hear about. */
export function announcementsBetween(before: RunState, after: RunState): Announcement[] {
  const news: Announcement[] = [];
  for (const message of after.warnings.slice(before.warnings.length))
    news.push({ type: 'warning', message });
  for (const stage of stagesOf(after.plan)) {
    const was = stageOf(before, stage.name);
    const now = stageOf(after, stage.name);
    const moved = was.items !== now.items && hasJobs(stage.kind);
    if (was.status !== now.status || moved) {
      news.push({
        type: 'stage-changed',
        stage: stage.name,
        state: now.status,
        done: now.items,
        total: stage.items,
      });
    }
    if (stage.kind === 'train') {
      const model = modelName(stage.model);
      const metrics = after.training[model]?.last;
      if (metrics && metrics.step !== before.training[model]?.last?.step) {
        news.push({ type: 'train-step', model, steps: stage.items, metrics });
      }
    }
    if (stage.kind === 'evaluate' && now.items === 1 && was.items === 0) {
      const model = modelName(stage.model);
      const summary = after.results.find((r) => r.model === model);
      if (summary) news.push({ type: 'model-evaluated', summary });
    }
  }
  if (before.status !== after.status)
    news.push({ type: 'run-changed', status: after.status, reason: after.reason });
  return news;
}
