/**
 * What has to happen in a state, and which commands lead from one state's work to the next one's.
 */
import { stagesOf, type StageKind } from './plan.js';
import type { StepNumbers } from '@spindle/proto';
import { stageOf, type ModelSummary, type RunState } from './state.js';

export type Command =
  /** Takes every job of the run off the queue; comes before any publish. */
  | { type: 'purge' }
  | { type: 'publish'; stage: string; shards: number[] }
  | { type: 'train'; model: string }
  | { type: 'stop-training'; model: string }
  | { type: 'evaluate'; model: string }
  | { type: 'report' };

export type Announcement =
  | { type: 'run-changed'; status: string; reason: string }
  | { type: 'stage-changed'; stage: string; state: string; done: number; total: number }
  | { type: 'train-step'; model: string; steps: number; metrics: StepNumbers }
  | { type: 'model-evaluated'; summary: ModelSummary }
  | { type: 'warning'; message: string };

export interface Work {
  /** Outstanding shards per running stage, in the order in which they should be worked off. */
  jobs: Map<string, number[]>;
  training: string | null;
  evaluating: string[];
  report: boolean;
}

export function jobStages(kind: StageKind): boolean {
  return kind === 'encode' || kind === 'sample' || kind === 'eval-sample' || kind === 'eval-score';
}

/** Nothing unless the run is running. */
export function workOf(state: RunState): Work {
  const work: Work = { jobs: new Map(), training: null, evaluating: [], report: false };
  if (state.status !== 'running') return work;
  for (const stage of stagesOf(state.plan)) {
    const own = stageOf(state, stage.name);
    if (own.status !== 'running') continue;
    if (stage.kind === 'train') work.training = stage.model;
    else if (stage.kind === 'evaluate') work.evaluating.push(stage.model);
    else if (stage.kind === 'report') work.report = true;
    else {
      // A shard is scored as soon as it is drawn.
      const ready =
        stage.kind === 'eval-score'
          ? stageOf(state, `eval-sample-${stage.model}`).done
          : Array.from({ length: stage.shards }, (_, i) => i);
      const over = new Set([...own.done, ...own.dead.map((dead) => dead.shard)]);
      const open = ready.filter((shard) => !over.has(shard));
      if (open.length > 0) work.jobs.set(stage.name, open);
    }
  }
  // Sampling is what the next training waits for. On a shared device that training waits for the
  // evaluation too, and judging overlaps drawing.
  const last = state.plan.sharedDevice ? 'sample-' : 'eval-';
  work.jobs = new Map(
    [...work.jobs].sort(([a], [b]) => Number(a.startsWith(last)) - Number(b.startsWith(last))),
  );
  return work;
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
  if ((stopped && before?.status === 'running') || skipped) commands.push({ type: 'purge' });

  const again = before === null || before.round !== after.round;
  for (const [stage, shards] of now.jobs) {
    const published = again ? [] : (was?.jobs.get(stage) ?? []);
    const known = new Set(published);
    const fresh = shards.filter((shard) => !known.has(shard));
    if (fresh.length > 0) commands.push({ type: 'publish', stage, shards: fresh });
  }
  if (was?.training && was.training !== now.training && !after.training[was.training]?.unet) {
    commands.push({ type: 'stop-training', model: was.training });
  }
  if (now.training && now.training !== was?.training)
    commands.push({ type: 'train', model: now.training });
  for (const model of now.evaluating)
    if (!was?.evaluating.includes(model)) commands.push({ type: 'evaluate', model });
  if (now.report && !was?.report) commands.push({ type: 'report' });
  return commands;
}

/** What people should hear about. */
export function announcementsBetween(before: RunState, after: RunState): Announcement[] {
  const news: Announcement[] = [];
  for (const message of after.warnings.slice(before.warnings.length))
    news.push({ type: 'warning', message });
  for (const stage of stagesOf(after.plan)) {
    const was = stageOf(before, stage.name);
    const now = stageOf(after, stage.name);
    const moved = was.items !== now.items && jobStages(stage.kind);
    if (was.status !== now.status || moved) {
      news.push({
        type: 'stage-changed',
        stage: stage.name,
        state: now.status,
        done: now.items,
        total: stage.items,
      });
    }
    const metrics = after.training[stage.model]?.last;
    if (
      stage.kind === 'train' &&
      metrics &&
      metrics.step !== before.training[stage.model]?.last?.step
    ) {
      news.push({ type: 'train-step', model: stage.model, steps: stage.items, metrics });
    }
    if (stage.kind === 'evaluate' && now.items === 1 && was.items === 0) {
      const summary = after.results.find((r) => r.model === stage.model);
      if (summary) news.push({ type: 'model-evaluated', summary });
    }
  }
  if (before.status !== after.status)
    news.push({ type: 'run-changed', status: after.status, reason: after.reason });
  return news;
}
