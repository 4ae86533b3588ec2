/** What a run consists of, decided once when it is created: its stages as a graph. */
import { draw } from './seeds.js';

export type StageKind =
  | 'encode'
  | 'sample'
  | 'train'
  | 'eval-sample'
  | 'eval-score'
  | 'evaluate'
  | 'report';

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
  /** Held-out prompts; 0 without evaluation. */
  evaluationPrompts: number;
  evaluationSeed: number;
  /** Images per held-out prompt; absent in the plans of older runs: 1. */
  evaluationImages?: number;
  /** Metric names in the config's order; the first one decides which model is best. */
  metrics: string[];
  stop: { metric: string; patience: number } | null;
  sharedDevice: boolean;
  encodeShardSize: number;
  sampleShardSize: number;
  trainSteps: number;
  sftSteps: number;
  dpoSteps?: number;
  /** Share of a stage's items that may be lost before the run fails. */
  maxMissing: number;
}

export interface Stage {
  /** As in StageProgress.stage: "encode", "sample-base", "train-spin1", ... */
  name: string;
  kind: StageKind;
  /** The model that samples, comes out of training, or is judged; empty for encode and report. */
  model: string;
  /**
   * 0 for what belongs to no iteration; sampling for iteration k and training of spin<k> carry k.
   */
  iteration: number;
  shards: number;
  /** Images, steps or reports: what progress counts. */
  items: number;
  /** Stages that must be done or skipped first. */
  after: string[];
}

/** Models trained for comparison, in the order of tables. */
export function baselines(plan: Pick<RunPlan, 'sft' | 'dpo'>): string[] {
  return [...(plan.sft ? ['sft'] : []), ...(plan.dpo ? ['dpo'] : [])];
}

export function isBaseline(model: string): boolean {
  return model === 'sft' || model === 'dpo';
}

/** Models in the order of tables: base, baselines when asked, spin1 ... spinK. */
export function modelNames(plan: Pick<RunPlan, 'iterations' | 'sft' | 'dpo'>): string[] {
  return [
    'base',
    ...baselines(plan),
    ...Array.from({ length: plan.iterations }, (_, i) => `spin${i + 1}`),
  ];
}

/** Where training of `spin<k>` starts: θ_{k-1}. */
export function initOf(iteration: number): string {
  return iteration === 1 ? 'base' : `spin${iteration - 1}`;
}

/** The model that plays against `spin<k>` and draws its images. */
export function opponentOf(plan: Pick<RunPlan, 'opponent' | 'seed'>, iteration: number): string {
  switch (plan.opponent ?? 'previous') {
    case 'previous':
      return initOf(iteration);
    case 'initial':
      return 'base';
    case 'random':
      return initOf(1 + draw(plan.seed, 'opponent', iteration, iteration));
    case 'ema':
      return iteration === 1 ? 'base' : `ema${iteration - 1}`;
  }
}

/** The training that a model comes from: `ema<k>` is the moving average of `spin<k>`. */
export function trainedAs(model: string): string {
  return model.startsWith('ema') ? `spin${model.slice('ema'.length)}` : model;
}

/** 0 for the base and the baselines. */
export function iterationOf(model: string): number {
  return model.startsWith('spin') ? Number(model.slice('spin'.length)) : 0;
}

/** Images of one model's evaluation: those of a prompt lie side by side. */
export function evaluationItems(
  plan: Pick<RunPlan, 'evaluationPrompts' | 'evaluationImages'>,
): number {
  return plan.evaluationPrompts * (plan.evaluationImages ?? 1);
}

export function trainingSteps(plan: RunPlan, model: string): number {
  if (model === 'dpo') return plan.dpoSteps ?? 0;
  return model === 'sft' ? plan.sftSteps : plan.trainSteps;
}

/**
 * The stages and their order. Evaluation of θ_k follows its training and runs beside the sampling
 * of iteration k+1. A shared device adds edges that keep training and sampling apart; `stop` adds
 * one from an evaluation to the next training.
 */
export function stagesOf(plan: RunPlan): Stage[] {
  const stages: Stage[] = [];
  const add = (stage: Stage): void => void stages.push(stage);
  const isStage = (name: string): boolean => stages.some((stage) => stage.name === name);
  const evaluated = plan.evaluationPrompts > 0;
  const scored = evaluated && plan.metrics.length > 0;
  const shardsFor = (items: number, size: number): number => Math.ceil(items / size);

  /** The last stage of a model's evaluation, as an edge for those who must wait for it. */
  const evaluationEnd = (model: string): string[] =>
    scored ? [`evaluate-${model}`] : evaluated ? [`eval-sample-${model}`] : [];
  const addEvaluation = (model: string, iteration: number, after: string[]): void => {
    if (!evaluated) return;
    const common = {
      model,
      iteration,
      shards: shardsFor(evaluationItems(plan), plan.sampleShardSize),
      items: evaluationItems(plan),
    };
    add({ ...common, name: `eval-sample-${model}`, kind: 'eval-sample', after });
    if (!scored) return;
    add({ ...common, name: `eval-score-${model}`, kind: 'eval-score', after });
    const base = model === 'base' ? [] : ['evaluate-base'];
    add({
      name: `evaluate-${model}`,
      kind: 'evaluate',
      model,
      iteration,
      shards: 1,
      items: 1,
      after: [`eval-score-${model}`, ...base],
    });
  };

  add({
    name: 'encode',
    kind: 'encode',
    model: '',
    iteration: 0,
    shards: shardsFor(plan.rows, plan.encodeShardSize),
    items: plan.rows,
    after: [],
  });
  // The trainer holds one training at a time: each waits for the one before.
  let trained = 'encode';
  for (const model of baselines(plan)) {
    add({
      name: `train-${model}`,
      kind: 'train',
      model,
      iteration: 0,
      shards: 1,
      items: trainingSteps(plan, model),
      after: [trained],
    });
    trained = `train-${model}`;
  }
  const samplingStart = plan.sharedDevice ? [trained] : [];

  for (let k = 1; k <= plan.iterations; k++) {
    const opponent = opponentOf(plan, k);
    const images = plan.rows * plan.imagesPerPrompt;
    // What an opponent has drawn once is there for later iterations too.
    if (!isStage(`sample-${opponent}`)) {
      add({
        name: `sample-${opponent}`,
        kind: 'sample',
        model: opponent,
        iteration: k,
        shards: shardsFor(plan.rows, plan.sampleShardSize),
        items: images,
        // Rows that encoding rejects are not sampled. On a shared device, drawing waits for the
        // training before.
        after: [
          'encode',
          ...(k === 1
            ? samplingStart
            : [`train-${plan.sharedDevice ? initOf(k) : trainedAs(opponent)}`].filter(isStage)),
        ],
      });
    }
    if (k === 1) {
      addEvaluation('base', 0, samplingStart);
      for (const model of baselines(plan)) addEvaluation(model, 0, [`train-${model}`]);
    }
    const waitsForEvaluation = plan.sharedDevice || plan.stop !== null;
    add({
      name: `train-spin${k}`,
      kind: 'train',
      model: `spin${k}`,
      iteration: k,
      shards: 1,
      items: plan.trainSteps,
      after: [
        `sample-${opponent}`,
        ...(trained === 'encode' ? [] : [trained]),
        ...(waitsForEvaluation ? evaluationEnd(initOf(k)) : []),
        ...(plan.sharedDevice && k === 1 ? baselines(plan).flatMap(evaluationEnd) : []),
      ],
    });
    trained = `train-spin${k}`;
    addEvaluation(`spin${k}`, k, [trained]);
  }
  add({
    name: 'report',
    kind: 'report',
    model: '',
    iteration: 0,
    shards: 1,
    items: 1,
    after: stages.map((stage) => stage.name),
  });
  return stages;
}

/** Key of a job or training in the artifact store and on the queue. */
export function jobKey(runId: string, stage: string, shard: number): string {
  return `${runId}/${stage}/${String(shard).padStart(4, '0')}`;
}

export function parseJobKey(
  key: string,
): { runId: string; stage: string; shard: number } | undefined {
  const match = /^([^/]+)\/([^/]+)\/(\d+)$/.exec(key);
  const [, runId, stage, shard] = match ?? [];
  return runId !== undefined && stage !== undefined && shard !== undefined
    ? { runId, stage, shard: Number(shard) }
    : undefined;
}

export function trainKey(runId: string, model: string): string {
  return `${runId}/train-${model}`;
}
