/** The stages of a run: what kinds there are, and how they are called in states and job keys. */
import { modelName, type Model } from './model.js';

/** What belongs to one model: the one that draws, comes out of training, or is judged. */
export type ModelStageKind =
  | 'sample'
  | 'score'
  | 'train'
  | 'judge-sample'
  | 'judge-score'
  | 'eval-sample'
  | 'eval-score'
  | 'evaluate';
export type StageKind = 'encode' | ModelStageKind | 'report';

/** Which stage of a run. */
export type StageId = { kind: 'encode' | 'report' } | { kind: ModelStageKind; model: Model };

export type Stage = StageId & {
  /** As stageName says; also in StageProgress.stage. */
  name: string;
  /**
   * 0 for what belongs to no iteration; sampling for iteration k and training of `spin<k>` carry k.
   */
  iteration: number;
  shards: number;
  /** Images, steps or reports: what progress counts. */
  items: number;
  /** Names of stages that must be done or skipped first. */
  after: string[];
  /** One of `after` that may still be drawing: see mayBegin. */
  early?: EarlyStart;
};

/** Training begins once the first shards of its images are drawn. */
export interface EarlyStart {
  stage: string;
  shards: number;
}

/** "encode", "sample-base", "train-spin1", …; for ever, as runs that are going on have them. */
export function stageName(stage: StageId): string {
  switch (stage.kind) {
    case 'encode':
    case 'report':
      return stage.kind;
    case 'sample':
    case 'score':
    case 'train':
    case 'judge-sample':
    case 'judge-score':
    case 'eval-sample':
    case 'eval-score':
    case 'evaluate':
      return `${stage.kind}-${modelName(stage.model)}`;
  }
}

/** Stages that workers do as jobs, shard by shard. */
export function hasJobs(kind: StageKind): boolean {
  switch (kind) {
    case 'encode':
    case 'sample':
    case 'score':
    case 'judge-sample':
    case 'judge-score':
    case 'eval-sample':
    case 'eval-score':
      return true;
    case 'train':
    case 'evaluate':
    case 'report':
      return false;
  }
}

/** Stages whose shards are the steps of a training after which it is judged. */
export function isOfSteps(kind: StageKind): kind is 'judge-sample' | 'judge-score' {
  return kind === 'judge-sample' || kind === 'judge-score';
}

/** Stages whose shards are images of an opponent, for rows that encoding did not reject. */
export function isOfRows(kind: StageKind): kind is 'sample' | 'score' {
  return kind === 'sample' || kind === 'score';
}

/** The stage that draws the images which this one judges, shard by shard; else undefined. */
export function judgedBy(stage: StageId): string | undefined {
  switch (stage.kind) {
    case 'score':
      return stageName({ kind: 'sample', model: stage.model });
    case 'judge-score':
      return stageName({ kind: 'judge-sample', model: stage.model });
    case 'eval-score':
      return stageName({ kind: 'eval-sample', model: stage.model });
    case 'encode':
    case 'sample':
    case 'train':
    case 'judge-sample':
    case 'eval-sample':
    case 'evaluate':
    case 'report':
      return undefined;
  }
}
