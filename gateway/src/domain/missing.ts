import { shardSize } from './shards.js';
import { hasJobs, isOfRows, judgedBy, type Stage } from './stage.js';
import { stageOf, type RunState, type StageState } from './state.js';

/** Items of a stage that will never come, and the first reasons why. */
export function missingItems(
  state: RunState,
  stage: Stage,
  own: StageState,
): { items: number; why: string } {
  if (!hasJobs(stage.kind)) return { items: 0, why: '' };
  const rejected = new Set(isOfRows(stage.kind) ? state.rejected : []);
  let items = own.dead.reduce(
    (sum, dead) => sum + shardSize(state.plan, stage, dead.shard, rejected),
    0,
  );
  const reasons = own.dead.slice(0, 3).map((dead) => `shard ${dead.shard}: ${dead.reason}`);
  if (stage.kind === 'encode') {
    const lost = new Set(own.dead.map((dead) => dead.shard));
    const unreadable = state.rejected.filter(
      (row) => !lost.has(Math.floor(row / state.plan.encodeShardSize)),
    ).length;
    items += unreadable;
    if (unreadable > 0) reasons.push(`${unreadable} unreadable images`);
  }
  const drawing = judgedBy(stage);
  if (drawing !== undefined) {
    // What was never drawn cannot be scored; the loss was counted once, when drawing.
    const undrawn = new Set(stageOf(state, drawing).dead.map((dead) => dead.shard));
    items = own.dead
      .filter((dead) => !undrawn.has(dead.shard))
      .reduce((sum, dead) => sum + shardSize(state.plan, stage, dead.shard, rejected), 0);
  }
  return { items, why: reasons.join('; ') };
}
