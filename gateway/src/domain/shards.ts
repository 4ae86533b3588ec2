/**
 * Which rows and images a shard holds; pure arithmetic, so that a job can be rebuilt from its key
 * at any time.
 */
import { neededImages } from './needed-images.js';
import { judgingOf } from './judging.js';
import {
  drawnImages,
  evaluationItems,
  imagesPerJob,
  readingOf,
  reportedPrompts,
  type RunPlan,
} from './plan.js';
import { imageSeed } from './seeds.js';
import { isOfRows, isOfSteps, type Stage } from './stage.js';

export interface ShardItem {
  index: number;
  seed: bigint;
}

export interface ShardRange {
  start: number;
  count: number;
}

/** The rows of an encoding shard, or the images of an evaluation's. */
export function shardRange(plan: RunPlan, stage: Stage, shard: number): ShardRange {
  const size = stage.kind === 'encode' ? plan.encodeShardSize : plan.sampleShardSize;
  const total = stage.kind === 'encode' || isOfRows(stage.kind) ? plan.rows : evaluationItems(plan);
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
  const { asRead } = plan;
  if (isOfRows(stage.kind) && asRead)
    return itemsAsRead(plan, stage.iteration, shard, encodedOf(plan, rejected));
  if (isOfSteps(stage.kind)) return judgedItems(plan, stage);
  const { start, count } = shardRange(plan, stage, shard);
  const items: ShardItem[] = [];
  for (let index = start; index < start + count; index++) {
    if (!isOfRows(stage.kind)) {
      // No model name in the hash: every model draws a prompt from the same noise.
      const each = plan.evaluationImages ?? 1;
      const prompt = Math.floor(index / each);
      items.push(evaluatedItem(plan, prompt, index % each));
      continue;
    }
    if (rejected.has(index)) continue;
    for (let copy = 0; copy < plan.imagesPerPrompt; copy++)
      items.push(drawnItem(plan, stage.iteration, index, copy));
  }
  return items;
}

function evaluatedItem(plan: RunPlan, prompt: number, copy: number): ShardItem {
  return { index: prompt, seed: imageSeed(plan.evaluationSeed, 'evaluate', prompt, copy) };
}

/** The same of every step: the first prompts that models are chosen by, an image each. */
function judgedItems(plan: RunPlan, stage: Stage): ShardItem[] {
  const first = reportedPrompts(plan);
  return Array.from({ length: judgedPrompts(plan, stage) }, (_, i) =>
    evaluatedItem(plan, first + i, 0),
  );
}

function judgedPrompts(plan: RunPlan, stage: Stage): number {
  return 'model' in stage ? (judgingOf(plan, stage.model)?.prompts ?? 0) : 0;
}

function drawnItem(plan: RunPlan, iteration: number, index: number, copy: number): ShardItem {
  // A word of the seed, not a stage's name: it stays as it is for ever.
  return { index, seed: imageSeed(plan.seed, `sample-${iteration}`, index, copy) };
}

/** A shard of the images that iteration k reads. */
function itemsAsRead(plan: RunPlan, k: number, shard: number, encoded: Rows): ShardItem[] {
  if (!plan.asRead) return [];
  const size = imagesPerJob(plan);
  const reading = readingOf(plan, plan.asRead, k);
  return neededImages(reading, encoded.count, shard * size, (shard + 1) * size).map(
    ({ element, copy }) => drawnItem(plan, k, encoded.at(element), copy),
  );
}

/** Rows that are encoded, by their place among them. */
interface Rows {
  count: number;
  at(element: number): number;
}

function encodedOf(plan: RunPlan, rejected: ReadonlySet<number>): Rows {
  const without = [...rejected].sort((a, b) => a - b);
  return {
    count: plan.rows - without.length,
    at(element) {
      // The how manyth of the rejected rows lies before it: each that does moves it on by one.
      let [low, high] = [0, without.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((without[middle] ?? 0) - middle <= element) low = middle + 1;
        else high = middle;
      }
      return element + low;
    },
  };
}

/** Items of a shard without building them; encoding counts every row, rejected or not. */
export function shardSize(
  plan: RunPlan,
  stage: Stage,
  shard: number,
  rejected: ReadonlySet<number>,
): number {
  if (isOfSteps(stage.kind)) return judgedPrompts(plan, stage);
  const { start, count } = shardRange(plan, stage, shard);
  if (!isOfRows(stage.kind)) return count;
  if (plan.asRead) {
    const size = imagesPerJob(plan);
    const images = drawnImages(plan, stage.iteration, plan.rows - rejected.size);
    return Math.max(0, Math.min(size, images - shard * size));
  }
  let kept = 0;
  for (let index = start; index < start + count; index++) if (!rejected.has(index)) kept++;
  return kept * plan.imagesPerPrompt;
}
