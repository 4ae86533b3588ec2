/** A training session: its options, its micro-batches and what they give. */
import type { NativePrecision, PhaseDto, TensorDto } from './native-values.js';

/** Opaque; freed by garbage collection, or at once by release(). */
export interface TrainerHandle {
  readonly __trainer: unique symbol;
}

/** Everything that a training session needs beside its models. */
export interface TrainerOptionsDto {
  /** "spin_logistic", "spin_hinge", "spin_ipo" or "sft". */
  objective: string;
  beta: number;
  /**
   * Share of the winner's improvement that the loser's gradient must leave, 0 to 1; null: no
   * safeguard.
   */
  safeguard: number | null;
  /** Timesteps whose mean is a pair's logit; 1 for SFT. */
  timestepsPerPair: number;
  /** "constant", "paper" or "min_snr"; constant for SFT. */
  timestepWeight: string;
  /** SFT only; 0: every timestep weighs the same. */
  minSnrGamma: number;
  /** scheduler_config.json as JSON text: noise schedule and prediction_type. */
  schedulerConfig: string;
  precision: NativePrecision;
  learningRate: number;
  /** "constant", "linear" or "cosine". */
  schedule: string;
  warmupSteps: number;
  totalSteps: number;
  adamBeta1: number;
  adamBeta2: number;
  adamEpsilon: number;
  weightDecay: number;
  maxGradNorm: number;
  /** 0: no EMA. */
  emaDecay: number;
  /** Less memory for one more forward per step; the same results. */
  activationCheckpointing: boolean;
  /**
   * Train adapters of these linear layers (names, whole or their end) on the frozen weights; null:
   * train the weights.
   */
  lora: { rank: number; alpha: number; targets: string[] } | null;
  /** Key of the counter-based generator, with the iteration. */
  seed: bigint;
  iteration: number;
}

/** This process's place among the ranks of a data-parallel training. */
export interface RankGroupDto {
  /** 0 to worldSize - 1. */
  rank: number;
  worldSize: number;
  /** Where rank 0 listens: "unix:/a/path" or "tcp:host:port". */
  address: string;
  /** The group's name; connections of others are refused. */
  token: string;
  /**
   * For the whole of connecting; later for a rank that is connected and silent. Then calls reject
   * with "UNAVAILABLE".
   */
  timeoutSeconds: number;
}

/**
 * One micro-batch. Noise and timesteps are drawn inside from (seed, iteration, step, sample index).
 */
export interface TrainBatchDto {
  /** Optimiser step this belongs to, from 0. */
  step: number;
  /** Position of the first element in the step's whole batch: with `step` it keys the draws. */
  offset: number;
  /** Sum over a step's micro-batches of their sizes, on all ranks: the loss is the mean over it. */
  stepBatchSize: number;
  /**
   * This rank's last micro-batch of the step: gradients are summed over the ranks during its
   * backward.
   */
  last: boolean;
  /**
   * Do not wait for a device: what the micro-batch gives is told by trainApply() where that saves
   * time.
   */
  later: boolean;
  /** (B, C, h, w), already scaled latents (posterior mean or draw, times scaling_factor). */
  real: TensorDto;
  /** (B, C, h, w) or null for SFT. */
  generated: TensorDto | null;
  /** (B, T, D) */
  text: TensorDto;
  /** Of this step; null: the trainer's. */
  beta: number | null;
  /**
   * Of models with the text_time embedding (SDXL) alone, null otherwise: (B, P), and (B, 6) as in
   * SampleRequestDto.timeIds.
   */
  pooled: TensorDto | null;
  timeIds: TensorDto | null;
}

export interface TrainErrorsDto {
  /**
   * Sum over the micro-batch of per-pair losses divided by stepBatchSize: add over micro-batches.
   */
  loss: number;
  /**
   * The same of the safeguard's factor on generated images' gradients: 1 without one, 0 for SFT.
   */
  loserScale: number;
  /** Per element, float32, weighed means over its timesteps; the last three are empty for SFT. */
  errorReal: Float32Array;
  errorGenerated: Float32Array;
  opponentErrorReal: Float32Array;
  opponentErrorGenerated: Float32Array;
}

/** What a micro-batch left behind. */
export interface TrainBatchResultDto {
  /** Null: told later, by trainApply(). */
  errors: TrainErrorsDto | null;
  phases: PhaseDto[];
}

/** What an optimiser step left behind. */
export interface TrainStepResultDto {
  gradNorm: number;
  learningRate: number;
  /** Of the step's micro-batches that were told later, in their order. */
  errors: TrainErrorsDto[];
  phases: PhaseDto[];
}
