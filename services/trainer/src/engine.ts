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
   * Brings a micro-batch to the device while the device is at work. accumulate() of the same
   * micro-batch finds it there.
   */
  prefetch(batch: TrainBatchDto): Promise<void>;
  /** Takes an optimiser step. With other ranks, it waits for their gradients. */
  apply(step: number, learningRateScale: number, signal: AbortSignal): Promise<TrainStepResultDto>;
  /** Sends rank 0's state to all ranks. Does nothing without other ranks. */
  broadcastState(signal: AbortSignal): Promise<void>;
  /** Throws unless every rank has the same state. Does nothing without other ranks. */
  verifyRanks(signal: AbortSignal): Promise<void>;
  /** Writes weights, both moments and averages to `path`, durably. */
  saveState(path: string, metadata: Record<string, string>): Promise<void>;
  loadState(path: string): Promise<Record<string, string>>;
  /** Writes the whole U-Net or its moving average to `path`, durably, as diffusers loads it. */
  export(path: string, averaged: boolean): Promise<void>;
  /** With LoRA, writes the adapters alone. */
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
  /** The text states of the empty prompt, one row. */
  emptyPrompt(directory: string, precision: NativePrecision): Promise<TextStates>;
  unetSource(directory: string): ModelSourceDto;
  /**
   * With a `group`, this process is one of several ranks, and the promise resolves once all of them
   * are connected. Without an opponent the objective is plain denoising.
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
        schedulerConfig: stringifyJson(
          readScheduler(join(directory, 'scheduler'), () => undefined),
        ),
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
