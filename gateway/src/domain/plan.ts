/** What a run consists of, decided once when it is created: its stages as a graph. */
import { judgingOf, stepsJudged, type JudgedTrainings } from './judging.js';
import type { KeepIf } from './keep-if.js';
import { base, iterationOf, spin, type Model } from './model.js';
import { neededCount, type Reading } from './needed-images.js';
import { forIteration } from './per-iteration.js';
import { draw } from './seeds.js';
import {
  stageName,
  type EarlyStart,
  type ModelStageKind,
  type Stage,
  type StageId,
} from './stage.js';

/**
 * Sizes and choices of a run; everything here follows from the config and the data, nothing changes
 * later.
 */
export interface RunPlan {
  runId: string;
  seed: number;
  iterations: number;
  sft: boolean;
  /** Absent in the plans of older runs, as is `opponent`. */
  dpo?: boolean;
  opponent?: 'previous' | 'initial' | 'random' | 'ema';
  /** Rows of the training set. */
  rows: number;
  imagesPerPrompt: number;
  /** Held-out prompts, with those of `select`; 0 without evaluation. */
  evaluationPrompts: number;
  /**
   * The last `prompts` of them are not reported: the best model, and when to stop, follow from them
   * alone. Absent in the plans of older runs, and where there are too few.
   */
  select?: { prompts: number; metric: string };
  evaluationSeed: number;
  /** Images per held-out prompt; absent in the plans of older runs: 1. */
  evaluationImages?: number;
  /** Metric names in the config's order; the first one decides which model is best. */
  metrics: string[];
  stop: { metric: string; patience: number } | null;
  sharedDevice: boolean;
  encodeShardSize: number;
  sampleShardSize: number;
  /**
   * Only images that training reads are drawn, in the order in which it reads them. Absent in the
   * plans of older runs, and where several iterations read an opponent's images: one of each row.
   */
  asRead?: DrawnAsRead;
  /** Pairs that training reads; absent: all. */
  keepIf?: KeepIf;
  /** Trainings that are judged while they go on; absent: none. */
  judging?: JudgedTrainings;
  /** Optimiser steps of an iteration, or of each (the last one repeats). */
  trainSteps: number | number[];
  sftSteps: number;
  dpoSteps?: number;
  /** Share of a stage's items that may be lost before the run fails. */
  maxMissing: number;
}

/** What says which images a training reads. */
export interface DrawnAsRead {
  /** Pairs per step of an iteration, or of each (the last one repeats). */
  batchSize: number | number[];
  /** Views of an image that are read in turn, an epoch each; 1 for a sampler's latents. */
  views: number;
}

/** Models trained for comparison, in the order of tables. */
export function baselines(plan: Pick<RunPlan, 'sft' | 'dpo'>): Model[] {
  return [
    ...(plan.sft ? [{ kind: 'sft' } as const] : []),
    ...(plan.dpo ? [{ kind: 'dpo' } as const] : []),
  ];
}

/** Models in the order of tables: base, baselines when asked, spin1 ... spinK. */
export function modelsOf(plan: Pick<RunPlan, 'iterations' | 'sft' | 'dpo'>): Model[] {
  return [
    base,
    ...baselines(plan),
    ...Array.from({ length: plan.iterations }, (_, i) => spin(i + 1)),
  ];
}

/** Where training of `spin<k>` starts: θ_{k-1}. */
export function initOf(iteration: number): Model {
  return iteration === 1 ? base : spin(iteration - 1);
}

/** The model that plays against `spin<k>` and draws its images. */
export function opponentOf(plan: Pick<RunPlan, 'opponent' | 'seed'>, iteration: number): Model {
  switch (plan.opponent ?? 'previous') {
    case 'previous':
      return initOf(iteration);
    case 'initial':
      return base;
    case 'random':
      return initOf(1 + draw(plan.seed, 'opponent', iteration, iteration));
    case 'ema':
      return iteration === 1 ? base : { kind: 'ema', iteration: iteration - 1 };
  }
}

/** The model whose training leaves this one: `ema<k>` is the moving average of `spin<k>`. */
export function trainedAs(model: Model): Model {
  return model.kind === 'ema' ? spin(model.iteration) : model;
}

/** Images of one model's evaluation: those of a prompt lie side by side. */
export function evaluationItems(
  plan: Pick<RunPlan, 'evaluationPrompts' | 'evaluationImages'>,
): number {
  return plan.evaluationPrompts * (plan.evaluationImages ?? 1);
}

/** Images that the opponent of iteration k draws for `rows` encoded rows. */
export function drawnImages(plan: RunPlan, k: number, rows: number): number {
  const { asRead, imagesPerPrompt } = plan;
  return asRead ? neededCount(readingOf(plan, asRead, k), rows) : rows * imagesPerPrompt;
}

/** Images that a job of an opponent draws. */
export function imagesPerJob(plan: RunPlan): number {
  return plan.sampleShardSize * plan.imagesPerPrompt;
}

/** How iteration k reads images. */
export function readingOf(plan: RunPlan, asRead: DrawnAsRead, k: number): Reading {
  return {
    key: { seed: BigInt(plan.seed), iteration: k },
    positions: forIteration(plan.trainSteps, k) * forIteration(asRead.batchSize, k),
    copies: plan.imagesPerPrompt,
    views: asRead.views,
  };
}

/** Training begins when the images of so many steps are drawn. */
const firstSteps = 4;

/**
 * Shards with which iteration k's training begins while the others are drawn. Undefined where it
 * waits for all: where it shares its device with the samplers, so that both would only be slower;
 * where images are not drawn in its order; and where judges say which pairs it reads.
 */
export function firstShards(plan: RunPlan, k: number): number | undefined {
  const { asRead, sharedDevice, keepIf, trainSteps, rows } = plan;
  if (!asRead || sharedDevice || keepIf) return undefined;
  const steps = Math.min(firstSteps, forIteration(trainSteps, k));
  const positions = steps * forIteration(asRead.batchSize, k);
  const images = neededCount({ ...readingOf(plan, asRead, k), positions }, rows);
  return Math.ceil(images / imagesPerJob(plan));
}

/** The metric that the best model is chosen by; undefined without judges. */
export function selectMetric(plan: Pick<RunPlan, 'select' | 'metrics'>): string | undefined {
  return plan.select?.metric ?? plan.metrics[0];
}

/** Held-out prompts that the report has: the first ones. */
export function reportedPrompts(plan: Pick<RunPlan, 'select' | 'evaluationPrompts'>): number {
  return plan.evaluationPrompts - (plan.select?.prompts ?? 0);
}

/** Optimiser steps of a model's training. */
export function trainingSteps(plan: RunPlan, model: Model): number {
  switch (model.kind) {
    case 'base':
      return 0;
    case 'sft':
      return plan.sftSteps;
    case 'dpo':
      return plan.dpoSteps ?? 0;
    case 'spin':
    case 'ema':
      return forIteration(plan.trainSteps, model.iteration);
  }
}

/** Steps of a model's training after which it is judged: a shard of its judging each. */
export function judgedSteps(plan: RunPlan, model: Model): number[] {
  const judging = judgingOf(plan, model);
  return judging ? stepsJudged(judging.every, trainingSteps(plan, model)) : [];
}

/**
 * The stages and their order. Evaluation of θ_k follows its training and runs beside the sampling
 * of iteration k+1. A shared device adds edges that keep training and sampling apart; `stop` adds
 * one from an evaluation to the next training.
 */
export function stagesOf(plan: RunPlan): readonly Stage[] {
  const known = stagesByPlan.get(plan);
  if (known) return known;
  const stages = makeStages(plan);
  stagesByPlan.set(plan, stages);
  return stages;
}

/** Plans never change; a run's are asked for with every event. */
const stagesByPlan = new WeakMap<RunPlan, readonly Stage[]>();

function makeStages(plan: RunPlan): Stage[] {
  const stages: Stage[] = [];
  const add = (stage: Omit<Stage, 'name'> & StageId): void => {
    stages.push({ ...stage, name: stageName(stage) });
  };
  const isStage = (name: string): boolean => stages.some((stage) => stage.name === name);
  const named = (kind: ModelStageKind, model: Model): string => stageName({ kind, model });
  const evaluated = plan.evaluationPrompts > 0;
  const scored = evaluated && plan.metrics.length > 0;
  const shardsFor = (items: number, size: number): number => Math.ceil(items / size);

  /** The last stage of a model's evaluation, as an edge for those who must wait for it. */
  const evaluationEnd = (model: Model): string[] =>
    scored ? [named('evaluate', model)] : evaluated ? [named('eval-sample', model)] : [];
  const addEvaluation = (model: Model, after: string[]): void => {
    if (!evaluated) return;
    const iteration = iterationOf(model);
    const items = evaluationItems(plan);
    const size = { iteration, shards: shardsFor(items, plan.sampleShardSize), items };
    add({ kind: 'eval-sample', model, ...size, after });
    if (!scored) return;
    add({ kind: 'eval-score', model, ...size, after });
    const first = model.kind === 'base' ? [] : [named('evaluate', base)];
    add({
      kind: 'evaluate',
      model,
      iteration,
      shards: 1,
      items: 1,
      after: [named('eval-score', model), ...first],
    });
  };
  /** Beside the training; a shard waits for the weights of its step. */
  const addJudging = (model: Model, after: string[], early?: EarlyStart): void => {
    const shards = judgedSteps(plan, model).length;
    if (shards === 0) return;
    const items = shards * (judgingOf(plan, model)?.prompts ?? 0);
    const common = { model, iteration: iterationOf(model), shards, items, after };
    for (const kind of ['judge-sample', 'judge-score'] as const)
      add({ kind, ...common, ...(early && { early }) });
  };
  const addTraining = (model: Model, after: string[], early?: EarlyStart): string => {
    const items = trainingSteps(plan, model);
    const stage = { kind: 'train', model, iteration: iterationOf(model), shards: 1 } as const;
    add({ ...stage, items, after, ...(early && { early }) });
    addJudging(model, after, early);
    return named('train', model);
  };

  add({
    kind: 'encode',
    iteration: 0,
    shards: shardsFor(plan.rows, plan.encodeShardSize),
    items: plan.rows,
    after: [],
  });
  // The trainer holds one training at a time: each waits for the one before.
  let trained: string | null = null;
  for (const model of baselines(plan)) trained = addTraining(model, [trained ?? 'encode']);
  const samplingStart = plan.sharedDevice ? [trained ?? 'encode'] : [];

  for (let k = 1; k <= plan.iterations; k++) {
    const opponent = opponentOf(plan, k);
    // What an opponent has drawn once is there for later iterations too.
    if (!isStage(named('sample', opponent))) {
      // On a shared device, drawing waits for the training before.
      const maker = plan.sharedDevice ? initOf(k) : trainedAs(opponent);
      const images = drawnImages(plan, k, plan.rows);
      const common = {
        ...{ model: opponent, iteration: k, items: images },
        shards: shardsFor(images, imagesPerJob(plan)),
        // Rows that encoding rejects are not sampled.
        after: ['encode', ...(k === 1 ? samplingStart : [named('train', maker)].filter(isStage))],
      };
      add({ kind: 'sample', ...common });
      if (plan.keepIf) add({ kind: 'score', ...common });
    }
    if (k === 1) {
      addEvaluation(base, samplingStart);
      for (const model of baselines(plan)) addEvaluation(model, [named('train', model)]);
    }
    const waitsForEvaluation = plan.sharedDevice || plan.stop !== null;
    const after = [
      named('sample', opponent),
      ...(plan.keepIf ? [named('score', opponent)] : []),
      ...(trained === null ? [] : [trained]),
      ...(waitsForEvaluation ? evaluationEnd(initOf(k)) : []),
      ...(plan.sharedDevice && k === 1 ? baselines(plan).flatMap(evaluationEnd) : []),
    ];
    const shards = firstShards(plan, k);
    const stage = named('sample', opponent);
    trained = addTraining(spin(k), after, shards === undefined ? undefined : { stage, shards });
    addEvaluation(spin(k), [trained]);
  }
  add({
    kind: 'report',
    iteration: 0,
    shards: 1,
    items: 1,
    after: stages.map((stage) => stage.name),
  });
  return stages;
}

/** Key of a job in the artifact store and on the queue: "<run>/<stage>/0003". */
export function jobKey(runId: string, stage: string, shard: number): string {
  return `${runId}/${stage}/${String(shard).padStart(4, '0')}`;
}

/** The inverse of jobKey; undefined for other keys. */
export function parseJobKey(
  key: string,
): { runId: string; stage: string; shard: number } | undefined {
  const match = /^([^/]+)\/([^/]+)\/(\d+)$/.exec(key);
  const [, runId, stage, shard] = match ?? [];
  return runId !== undefined && stage !== undefined && shard !== undefined
    ? { runId, stage, shard: Number(shard) }
    : undefined;
}

/** Key of a training: its result, checkpoints and lease. */
export function trainKey(runId: string, model: Model): string {
  return `${runId}/${stageName({ kind: 'train', model })}`;
}
