/**
 * When a stage may begin, or go on. Training need not wait for the end of the stage that draws its
 * images: they are drawn in the order in which it reads them, so from the first shards on it reads
 * what it would read with all of them there. That holds as long as no shard is given up. Then it
 * waits for the end after all, since what stands in for a lost image may lie anywhere.
 */
import type { EarlyStart, Stage } from './stage.js';
import { stageOf, type RunState } from './state.js';

/** `closed`: names of the stages that are over, with all that comes before them. */
export function mayBegin(
  state: RunState,
  { after, early }: Pick<Stage, 'after' | 'early'>,
  closed: ReadonlySet<string>,
): boolean {
  return after.every(
    (name) => closed.has(name) || (name === early?.stage && hasFirst(state, early)),
  );
}

/** Whether training goes on while its images are still drawn. */
export function isEarly(state: RunState, { early }: Pick<Stage, 'early'>): boolean {
  return early !== undefined && stageOf(state, early.stage).status === 'running';
}

function hasFirst(state: RunState, { stage, shards }: EarlyStart): boolean {
  const { status, done, dead } = stageOf(state, stage);
  const drawn = done.filter((shard) => shard < shards).length;
  return status === 'running' && dead.length === 0 && drawn === shards;
}
