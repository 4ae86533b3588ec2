/** What a run consists of, decided once when it is created: its stages as a graph. */

export type StageKind = 'encode' | 'sample' | 'train' | 'eval-sample' | 'eval-score' | 'evaluate' | 'report';

/** Sizes and choices of a run; everything here follows from the config and the data, nothing changes later. */
export interface RunPlan {
  runId: string;
  seed: number;
  iterations: number;
  sft: boolean;
  /** Rows of the training set. */
  rows: number;
  imagesPerPrompt: number;
  /** Held-out prompts; 0 without evaluation. */
  evaluationPrompts: number;
  evaluationSeed: number;
  /** Metric names in the config's order; the first one decides which model is best. */
  metrics: string[];
  stop: { metric: string; patience: number } | null;
  sharedDevice: boolean;
  encodeShardSize: number;
  sampleShardSize: number;
  trainSteps: number;
  sftSteps: number;
  /** Share of a stage's items that may be lost before the run fails. */
  maxMissing: number;
}

export interface Stage {
  /** As in StageProgress.stage: "encode", "sample-base", "train-spin1", ... */
  name: string;
  kind: StageKind;
  /** The model that samples, comes out of training, or is judged; empty for encode and report. */
  model: string;
  /** 0 for what belongs to no iteration; sampling for iteration k and training of spin<k> carry k. */
  iteration: number;
  shards: number;
  /** Images, steps or reports: what progress counts. */
  items: number;
  /** Stages that must be done or skipped first. */
  after: string[];
}

/** Models in the order of tables: base, sft when asked, spin1 ... spinK. */
export function modelNames(plan: Pick<RunPlan, 'iterations' | 'sft'>): string[] {
  return ['base', ...(plan.sft ? ['sft'] : []), ...Array.from({ length: plan.iterations }, (_, i) => `spin${i + 1}`)];
}

/** The model that plays against `spin<k>`: θ_{k-1}. */
export function opponentOf(iteration: number): string {
  return iteration === 1 ? 'base' : `spin${iteration - 1}`;
}

/** 0 for base and sft. */
export function iterationOf(model: string): number {
  return model.startsWith('spin') ? Number(model.slice('spin'.length)) : 0;
}

export function trainingSteps(plan: RunPlan, model: string): number {
  return model === 'sft' ? plan.sftSteps : plan.trainSteps;
}

/**
 * The stages and their order. Evaluation of θ_k follows its training and runs beside the sampling of iteration k+1.
 * A shared device adds edges that keep training and sampling apart; `stop` adds one from an evaluation to the next training.
 */
export function stagesOf(plan: RunPlan): Stage[] {
  const stages: Stage[] = [];
  const add = (stage: Stage): void => void stages.push(stage);
  const evaluated = plan.evaluationPrompts > 0;
  const scored = evaluated && plan.metrics.length > 0;
  const shardsFor = (items: number, size: number): number => Math.ceil(items / size);

  /** The last stage of a model's evaluation, as an edge for those who must wait for it. */
  const evaluationEnd = (model: string): string[] => (scored ? [`evaluate-${model}`] : evaluated ? [`eval-sample-${model}`] : []);
  const addEvaluation = (model: string, iteration: number, after: string[]): void => {
    if (!evaluated) return;
    const common = { model, iteration, shards: shardsFor(plan.evaluationPrompts, plan.sampleShardSize), items: plan.evaluationPrompts };
    add({ ...common, name: `eval-sample-${model}`, kind: 'eval-sample', after });
    if (!scored) return;
    add({ ...common, name: `eval-score-${model}`, kind: 'eval-score', after });
    const base = model === 'base' ? [] : ['evaluate-base'];
    add({ name: `evaluate-${model}`, kind: 'evaluate', model, iteration, shards: 1, items: 1, after: [`eval-score-${model}`, ...base] });
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
  if (plan.sft) {
    add({ name: 'train-sft', kind: 'train', model: 'sft', iteration: 0, shards: 1, items: plan.sftSteps, after: ['encode'] });
  }
  const samplingStart = plan.sharedDevice ? [plan.sft ? 'train-sft' : 'encode'] : [];

  for (let k = 1; k <= plan.iterations; k++) {
    const opponent = opponentOf(k);
    const images = plan.rows * plan.imagesPerPrompt;
    add({
      name: `sample-${opponent}`,
      kind: 'sample',
      model: opponent,
      iteration: k,
      shards: shardsFor(plan.rows, plan.sampleShardSize),
      items: images,
      // Rows that encoding rejects are not sampled.
      after: ['encode', ...(k === 1 ? samplingStart : [`train-${opponent}`])],
    });
    if (k === 1) {
      addEvaluation('base', 0, samplingStart);
      if (plan.sft) addEvaluation('sft', 0, ['train-sft']);
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
        // The trainer holds one training at a time.
        ...(k === 1 && plan.sft ? ['train-sft'] : []),
        ...(waitsForEvaluation ? evaluationEnd(opponent) : []),
        ...(plan.sharedDevice && k === 1 && plan.sft ? evaluationEnd('sft') : []),
      ],
    });
    addEvaluation(`spin${k}`, k, [`train-spin${k}`]);
  }
  add({ name: 'report', kind: 'report', model: '', iteration: 0, shards: 1, items: 1, after: stages.map((stage) => stage.name) });
  return stages;
}

/** Key of a job or training in the artifact store and on the queue. */
export function jobKey(runId: string, stage: string, shard: number): string {
  return `${runId}/${stage}/${String(shard).padStart(4, '0')}`;
}

export function parseJobKey(key: string): { runId: string; stage: string; shard: number } | undefined {
  const match = /^([^/]+)\/([^/]+)\/(\d+)$/.exec(key);
  const [, runId, stage, shard] = match ?? [];
  return runId !== undefined && stage !== undefined && shard !== undefined ? { runId, stage, shard: Number(shard) } : undefined;
}

export function trainKey(runId: string, model: string): string {
  return `${runId}/train-${model}`;
}
