import type { HeldOutPrompt, ImageSize } from '@spindle/data';
import type { InspectModelResponse } from '@spindle/proto';
import type { RunConfig } from '../config/schema.js';
import type { RunPlan } from '../domain/plan.js';
import type { DataSet } from './dataset.js';

/** A config that was found good, and everything that was found out about it. */
export interface CheckedRun {
  config: RunConfig;
  plan: RunPlan;
  resolution: number;
  /** Sizes of training images; empty: squares of the resolution. */
  sizes: ImageSize[];
  model: InspectModelResponse;
  data: DataSet;
  prompts: HeldOutPrompt[];
  warnings: string[];
  /** What a dry run prints. */
  text: string[];
}
