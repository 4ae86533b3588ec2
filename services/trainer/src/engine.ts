/**
 * The trainer's port to the engine, and the adapter that the process runs on; tests bring a port of
 * their own.
 */
import { join } from 'node:path';
import {
  choosePrecision,
  componentSource,
  partSource,
  readPipeline,
  readScheduler,
  readVaeScaling,
  stringifyJson,
  TextEncoder,
  type PrecisionChoice,
  type TextStates,
} from '@spindle/models';
import {
  type Engine,
  type EngineInfoDto,
  type ModelSourceDto,
  type NativePrecision,
  type RankGroupDto,
  type TrainBatchDto,
  type TrainBatchResultDto,
  type TrainerOptionsDto,
  type TrainStepResultDto,
} from '@spindle/native';

export interface TrainingSession {
  accumulate(batch: TrainBatchDto, signal: AbortSignal): Promise<TrainBatchResultDto>;
  /**
   * Brings a micro-batch to the device while it is at work; accumulate() of the same one finds it
   * there.
   */
  stage(batch: TrainBatchDto): Promise<void>;
  /** With ranks, waits for the gradients of the others. */
  apply(step: number, learningRateScale: number, signal: AbortSignal): Promise<TrainStepResultDto>;
  /** Rank 0's state to all ranks; alone, nothing. */
  shareState(signal: AbortSignal): Promise<void>;
  /** Every rank's state is the same; alone, nothing. */
  verifyRanks(signal: AbortSignal): Promise<void>;
  /** Weights, both moments and averages, durable at `path`. */
  saveState(path: string, metadata: Record<string, string>): Promise<void>;
  loadState(path: string): Promise<Record<string, string>>;
  /** The whole U-Net or its moving average, as diffusers loads it, durable at `path`. */
  export(path: string, averaged: boolean): Promise<void>;
  /** With LoRA: the adapters alone. */
  exportAdapters(path: string, averaged: boolean): Promise<void>;
  release(): void;
}

export interface TrainingPipeline {
  schedulerConfig: string;
  scalingFactor: number;
  shiftFactor: number;
}

export interface TrainerEngine {
  readonly info: EngineInfoDto;
  choosePrecision(): Promise<PrecisionChoice>;
  describePipeline(directory: string): TrainingPipeline;
  /** One row of what the U-Net is told without a prompt. */
  emptyPrompt(directory: string, precision: NativePrecision): Promise<TextStates>;
  unetSource(directory: string): ModelSourceDto;
  /**
   * `group`: this process is one of several ranks, and the session is there once all of them are
   * connected.
   */
  createSession(
    init: ModelSourceDto,
    opponent: ModelSourceDto | null,
    options: TrainerOptionsDto,
    group: RankGroupDto | null,
    signal: AbortSignal,
  ): Promise<TrainingSession>;
  close(): void;
}

export function nativeEngine(engine: Engine): TrainerEngine {
  return {
    info: engine.info,
    choosePrecision: () => choosePrecision(engine),
    describePipeline(directory) {
      const { scalingFactor, shiftFactor } = readVaeScaling(
        partSource(join(directory, 'vae'), 'diffusion_pytorch_model', () => undefined),
      );
      return {
        schedulerConfig: stringifyJson(readScheduler(join(directory, 'scheduler'))),
        scalingFactor,
        shiftFactor,
      };
    },
    async emptyPrompt(directory, precision) {
      const encoder = await TextEncoder.load(engine, readPipeline(directory), precision);
      try {
        return await encoder.empty();
      } finally {
        encoder.release();
      }
    },
    unetSource: (directory) => componentSource(directory, 'diffusion_pytorch_model'),
    createSession: (init, opponent, options, group, signal) =>
      engine.createTrainer(init, opponent, options, group, signal),
    close: () => engine.close(),
  };
}
