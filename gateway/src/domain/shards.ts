/**
 * Which rows and images a shard holds; pure arithmetic, so that a job can be rebuilt from its key
 * at any time.
 */
import { evaluationItems, type RunPlan } from './plan.js';
import { imageSeed } from './seeds.js';
import type { Stage } from './stage.js';

export interface ShardItem {
  index: number;
  seed: bigint;
}

export interface ShardRange {
  start: number;
  count: number;
}

export function shardRange(plan: RunPlan, stage: Stage, shard: number): ShardRange {
  const size = stage.kind === 'encode' ? plan.encodeShardSize : plan.sampleShardSize;
  const total =
    stage.kind === 'encode' || stage.kind === 'sample' ? plan.rows : evaluationItems(plan);
  const start = shard * size;
  return { start, count: Math.max(0, Math.min(size, total - start)) };
}

/** The rows of an encode shard. */
export function encodedRows(plan: RunPlan, shard: number): number[] {
  const start = shard * plan.encodeShardSize;
  const count = Math.min(plan.encodeShardSize, plan.rows - start);
  return Array.from({ length: count }, (_, i) => start + i);
}

/** The images of a sampling shard; rows that encoding rejected are left out. */
export function shardItems(
  plan: RunPlan,
  stage: Stage,
  shard: number,
  rejected: ReadonlySet<number>,
): ShardItem[] {
  const { start, count } = shardRange(plan, stage, shard);
  const items: ShardItem[] = [];
  for (let index = start; index < start + count; index++) {
    if (stage.kind !== 'sample') {
      // No model name in the hash: every model draws a prompt from the same noise.
      const each = plan.evaluationImages ?? 1;
      const prompt = Math.floor(index / each);
      items.push({
        index: prompt,
        seed: imageSeed(plan.evaluationSeed, 'evaluate', prompt, index % each),
      });
      continue;
    }
    if (rejected.has(index)) continue;
    for (let copy = 0; copy < plan.imagesPerPrompt; copy++) {
      // A word of the seed, not a stage's name: it stays as it is for ever.
      const drawing = `sample-${stage.iteration}`;
      items.push({ index, seed: imageSeed(plan.seed, drawing, index, copy) });
    }
  }
  return items;
}

/** Items of a shard without building them; encoding counts every row, rejected or not. */
export function shardSize(
  plan: RunPlan,
  stage: Stage,
  shard: number,
  rejected: ReadonlySet<number>,
): number {
  const { start, count } = shardRange(plan, stage, shard);
  if (stage.kind !== 'sample') return count;
  let kept = 0;
  for (let index = start; index < start + count; index++) if (!rejected.has(index)) kept++;
  return kept * plan.imagesPerPrompt;
}
