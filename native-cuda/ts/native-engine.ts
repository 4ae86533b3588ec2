/** The engine itself: how it is opened, what it says of the machine, its checks and its speed. */
import type { NativePrecision } from './native-values.js';

/** Opaque; freed by garbage collection, or at once by release(). */
export interface EngineHandle {
  readonly __engine: unique symbol;
}

export interface EngineOptionsDto {
  /**
   * "cpu", "cuda", "cuda:N", "auto" or "reference" (plain loops, slow; the oracle of the tests).
   */
  backend: string;
  /** 0: all cores this process may use. */
  threads: number;
  /** Highest instruction set to use: "auto", "amx", "avx512_bf16", "avx512", "avx2", "generic". */
  isa: string;
}

/** What computes, and how. */
export interface EngineInfoDto {
  version: string;
  backend: string;
  /** What computes: the instruction set, e.g. "avx512_bf16", or the GPU, e.g. "NVIDIA H200". */
  isa: string;
  threads: number;
  cpu: string;
  /** Backends this build contains. */
  backends: string[];
}

/** What GPUs this machine has, whether or not the engine can use them. */
export interface GpusDto {
  /** Why no GPU can be used, one sentence. */
  problem: string | null;
  /** The driver's version, such as "580.65.06". */
  driver: string | null;
  /** The newest CUDA that the driver runs, such as "13.0". */
  cuda: string | null;
  devices: {
    index: number;
    name: string;
    computeCapability: string;
    multiprocessors: number;
    totalBytes: number;
    freeBytes: number | null;
  }[];
  backend: {
    /** Why this build has no CUDA backend, one sentence. */
    problem: string | null;
    path: string;
    libraries: { name: string; version: string }[];
  };
}

/** One tensor of a fixture beside the engine's own. */
export interface ParityLineDto {
  fixture: string;
  kind: string;
  tensor: string;
  relL2: number;
  maxAbs: number;
  ok: boolean;
}

export interface BenchOptionsDto {
  task: string;
  /** "sd15", "small" or a pipeline folder. */
  model: string;
  precision: NativePrecision;
  batch: number;
  steps: number;
  repeat: number;
  warmup: number;
  checkpointing: boolean;
  profile: boolean;
}

export type BenchValue =
  | string
  | number
  | boolean
  | null
  | BenchValue[]
  | { [key: string]: BenchValue };

export interface BenchResultDto {
  /** The keys of the PyTorch peer's line, and `profile` when it was asked for. */
  values: Record<string, BenchValue>;
  /** The profile for people; empty without one. */
  tables: string;
}
