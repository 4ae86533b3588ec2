/** The state of a run: plain JSON, kept in the KV bucket and in artifacts/<run>/run.json. */
import type { StepNumbers } from '@spindle/proto';
import type { Judgement } from './judging.js';
import type { RunPlan } from './plan.js';
import { stagesOf } from './plan.js';

export const stateSchemaVersion = 1;

export type RunStatus = 'queued' | 'running' | 'paused' | 'succeeded' | 'failed' | 'cancelled';
export type StageStatus = 'waiting' | 'running' | 'done' | 'failed' | 'skipped';

export interface DeadShard {
  shard: number;
  reason: string;
  attempts: number;
}

export interface StageState {
  status: StageStatus;
  /** Finished shards, ascending; empty for training. */
  done: number[];
  /** Shards given up on. */
  dead: DeadShard[];
  /** Finished items (images, optimiser steps). */
  items: number;
  /** Time spent running up to `since`; pauses and downtime do not count. */
  activeMs: number;
  /** When the current stretch of running began. */
  since: number | null;
  /** Of judged pairs: how many are left out, by shard; shards without any are not told. */
  leftOut?: Record<number, number>;
  /** Shards whose results were lost and made again, once per loss; a training's is 0. */
  redone?: number[];
}

export interface TrainingState {
  last: StepNumbers | null;
  /** The last steps, newest last. */
  recent: { step: number; seconds: number }[];
  /** Set when training has ended: where the U-Net lies. */
  unet: StoredUnet | null;
  /** Its moving average, where that is kept beside it. */
  average?: StoredUnet;
  /** Where it is judged: what it left after a step, by step; the last one's is what it ends in. */
  snapshots?: Record<number, Snapshot>;
  /** By step. */
  judged?: Record<number, Judgement>;
  /** The step whose weights are the model's, where judging chose it. */
  kept?: number;
}

/** Weights of a training after a step, as `unet` and `average` are those that it ends in. */
export interface Snapshot {
  unet: StoredUnet;
  average?: StoredUnet;
}

/** The blobs of a trained U-Net. */
export interface StoredUnet {
  config: StoredBlob;
  weights: StoredBlob;
  /** With LoRA: what was added to the base's weights. */
  adapter?: StoredBlob;
}

export interface StoredBlob {
  digest: string;
  bytes: number;
  mediaType: string;
}

export interface MetricSummary {
  metric: string;
  mean: number;
  median: number;
  standardError: number;
  winRate: number;
  differenceLow: number;
  differenceHigh: number;
  n: number;
  /** Over the prompts that models are chosen by, where there are such. */
  select?: { mean: number; n: number };
}

export interface ModelSummary {
  model: string;
  metrics: MetricSummary[];
}

export interface RunState {
  plan: RunPlan;
  status: RunStatus;
  reason: string;
  createdAt: number;
  updatedAt: number;
  stages: Record<string, StageState>;
  /** Rows without encoded data: rejected by the encoder or in a shard given up on. Ascending. */
  rejected: number[];
  /** Captions that were cut to the text encoder's length. */
  truncated: number;
  training: Record<string, TrainingState>;
  results: ModelSummary[];
  bestModel: string;
  warnings: string[];
  /** Counts publications of the same jobs: a new round gets past the queue's de-duplication. */
  round: number;
  /**
   * Per job key, when the newest dead letter was stored that a resume has forgiven: by the message
   * server's clock, in milliseconds. Older versions wrote how many were forgiven.
   */
  forgiven: Record<string, number>;
  /** How often a list of texts was made again, by the config's key. */
  restored?: Record<string, number>;
}

export function initialState(plan: RunPlan, at: number): RunState {
  const stages: Record<string, StageState> = {};
  for (const stage of stagesOf(plan)) {
    stages[stage.name] = {
      status: 'waiting',
      done: [],
      dead: [],
      items: 0,
      activeMs: 0,
      since: null,
    };
  }
  return {
    plan,
    status: 'queued',
    reason: '',
    createdAt: at,
    updatedAt: at,
    stages,
    rejected: [],
    truncated: 0,
    training: {},
    results: [],
    bestModel: '',
    warnings: [],
    round: 0,
    forgiven: {},
  };
}

/** A dead letter: the how manyth of its key, and when it was stored. */
export interface Letter {
  key: string;
  count: number;
  at: number;
}

/** Times are larger than this, counts smaller. */
const mostLetters = 1e9;

/**
 * Whether a resume has forgiven this letter. Times stay right when the stream is wiped or drops its
 * oldest letters; counts would not.
 */
export function isForgiven({ forgiven }: Pick<RunState, 'forgiven'>, letter: Letter): boolean {
  const upTo = forgiven[letter.key] ?? 0;
  return upTo < mostLetters ? letter.count <= upTo : letter.at <= upTo;
}

export function isFinal(status: RunStatus): boolean {
  return status === 'succeeded' || status === 'failed' || status === 'cancelled';
}

export function stageOf(state: RunState, name: string): StageState {
  const stage = state.stages[name];
  if (!stage)
    throw new RangeError(
      `stage: expected one of ${Object.keys(state.stages).join(', ')}, got "${name}"`,
    );
  return stage;
}

/** Nothing of the stage is to be done any more. */
export function isOver(stage: StageState): boolean {
  return stage.status === 'done' || stage.status === 'skipped';
}

/** How many judged pairs are left out of training. */
export function leftOutOf({ leftOut = {} }: Pick<StageState, 'leftOut'>): number {
  return Object.values(leftOut).reduce((sum, pairs) => sum + pairs, 0);
}

/** Notes a warning in place; false when it is there already. */
export function warn(state: RunState, message: string): boolean {
  if (state.warnings.includes(message)) return false;
  state.warnings.push(message);
  return true;
}
