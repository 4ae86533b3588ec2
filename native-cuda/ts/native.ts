/**
 * Every function and plain-data type that crosses into the C++ addon, in one place. Rules of this
 * boundary: plain data and opaque handles only; every field present (`T | null`, no defaults here);
 * tensors are dense Float32Array in PyTorch's layout (NCHW, OIHW) with an explicit shape; every
 * call that computes runs on the engine's own thread and returns a promise; a rejected promise
 * carries an Error with a `code`.
 */

/** Dense float32 tensor, row-major, PyTorch layout. */
export interface TensorDto {
  data: Float32Array;
  shape: number[];
}

/** A part of a call's time. */
export interface PhaseDto {
  name: string;
  /** Milliseconds after the start of the call. */
  startMs: number;
  durationMs: number;
}

/** What activations and matrices are computed in. */
export type NativePrecision = 'float32' | 'bfloat16';

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

/**
 * A model's files: config.json's text and its safetensors shards (one for a single file), absolute
 * paths.
 */
export interface ModelSourceDto {
  config: string;
  weights: string[];
  /** Named in errors, e.g. ".../unet". */
  label: string;
  /**
   * LoRA files that loading adds to the weights, each times its scale; a trainer with `lora` goes
   * on from the only one.
   */
  adapters?: { path: string; scale: number }[];
}

/** Opaque handles; freed by garbage collection, or at once by release(). */
export interface EngineHandle {
  readonly __engine: unique symbol;
}
export interface UnetHandle {
  readonly __unet: unique symbol;
}
export interface VaeHandle {
  readonly __vae: unique symbol;
}
export interface ClipTextHandle {
  readonly __clipText: unique symbol;
}
export interface ClipHandle {
  readonly __clip: unique symbol;
}
export interface ImageRewardHandle {
  readonly __imageReward: unique symbol;
}
export interface AestheticHandle {
  readonly __aesthetic: unique symbol;
}
export interface TrainerHandle {
  readonly __trainer: unique symbol;
}
/** Cancels the calls it was given to: they reject with code "CANCELLED" between steps. */
export interface CancelHandle {
  readonly __cancel: unique symbol;
}

export interface UnetInfoDto {
  parameters: number;
  inChannels: number;
  outChannels: number;
  sampleSize: number;
  crossAttentionDim: number;
}

export interface SampleRequestDto {
  /** (B, T, D) text embeddings of the prompts and (1, T, D) of the empty prompt. */
  cond: TensorDto;
  uncond: TensorDto;
  /**
   * Of models with the text_time embedding (SDXL) alone, null otherwise: pooled embeddings (B, P)
   * and (1, P).
   */
  condPooled: TensorDto | null;
  uncondPooled: TensorDto | null;
  /**
   * Original height and width, crop's top and left, target height and width that images are drawn
   * for; empty without text_time.
   */
  timeIds: number[];
  /** One seed per image (PyTorch's CPU generator). */
  seeds: bigint[];
  /** Latent height and width. */
  height: number;
  width: number;
  /** scheduler_config.json after overrides, with _class_name, as JSON text. */
  schedulerConfig: string;
  steps: number;
  guidanceScale: number;
  eta: number;
  /** Images per U-Net call; results do not depend on it. */
  batchSize: number;
}

export interface SampleResultDto {
  /** (B, C, h, w), after the last step, as the scheduler leaves them (VAE-scaled). */
  latents: TensorDto;
  phases: PhaseDto[];
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
  /** Per element, float32; the last three are empty for SFT. */
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

/**
 * How an image comes to a judge's size. "transformers": CLIPImageProcessor, Pillow's bicubic of the
 * shortest edge, centre crop; "torchvision": the same but for how a crop's odd offset is rounded;
 * "tensor": bicubic of floats without antialiasing, longest edge, padded with zeros (HPSv2's code
 * under torchvision up to 0.16); "tensor_antialias": the same with antialiasing (torchvision 0.17
 * and later).
 */
export type PreprocessMethod = 'transformers' | 'torchvision' | 'tensor' | 'tensor_antialias';

/** How an image becomes a judge's input. */
export interface ImagePreprocessDto {
  /**
   * Shortest edge after the resize (the longest one with the tensor methods), and the crop
   * (pixels).
   */
  resize: number;
  cropHeight: number;
  cropWidth: number;
  mean: number[];
  std: number[];
  method: PreprocessMethod;
}

export type InspectedKind = 'unet' | 'vae' | 'clip_text' | 'clip' | 'image_reward' | 'aesthetic';

/** Every function that crosses into the engine. */
export interface NativeAddon {
  createEngine(options: EngineOptionsDto): EngineHandle;
  engineInfo(engine: EngineHandle): EngineInfoDto;
  /** Needs no engine; asks the driver, which may take a second. */
  gpus(): GpusDto;
  createCancel(): CancelHandle;
  cancel(handle: CancelHandle): void;
  release(handle: object): void;

  loadUnet(
    engine: EngineHandle,
    source: ModelSourceDto,
    precision: NativePrecision,
  ): Promise<UnetHandle>;
  unetInfo(unet: UnetHandle): UnetInfoDto;
  /** One forward: sample (B,C,h,w), timesteps (B), text (B,T,D) -> (B,C,h,w). */
  unetForward(
    unet: UnetHandle,
    sample: TensorDto,
    timesteps: number[],
    text: TensorDto,
  ): Promise<TensorDto>;
  loadVae(
    engine: EngineHandle,
    source: ModelSourceDto,
    precision: NativePrecision,
  ): Promise<VaeHandle>;
  /** pixels (B,3,H,W) in [-1,1] -> mean and logvar (B,C,h,w), unscaled. */
  vaeEncode(
    vae: VaeHandle,
    pixels: TensorDto,
    cancel: CancelHandle | null,
  ): Promise<{ mean: TensorDto; logvar: TensorDto; phases: PhaseDto[] }>;
  /** latents (B,C,h,w), unscaled -> pixels (B,3,H,W), nominally in [-1,1], not clamped. */
  vaeDecode(
    vae: VaeHandle,
    latents: TensorDto,
    cancel: CancelHandle | null,
  ): Promise<{ pixels: TensorDto; phases: PhaseDto[] }>;
  loadClipText(
    engine: EngineHandle,
    source: ModelSourceDto,
    precision: NativePrecision,
  ): Promise<ClipTextHandle>;
  /**
   * ids (B,T) -> last hidden state (B,T,D) after the final norm, penultimate (B,T,D), pooled (B,D),
   * projected where the class is CLIPTextModelWithProjection.
   */
  clipTextEncode(
    model: ClipTextHandle,
    ids: Int32Array,
    batch: number,
    cancel: CancelHandle | null,
  ): Promise<{
    lastHiddenState: TensorDto;
    penultimate: TensorDto;
    pooled: TensorDto;
    phases: PhaseDto[];
  }>;
  loadClip(
    engine: EngineHandle,
    source: ModelSourceDto,
    precision: NativePrecision,
  ): Promise<ClipHandle>;
  /** Projected, L2-normalised embeddings (B,P). */
  clipImageEmbed(model: ClipHandle, pixels: TensorDto): Promise<TensorDto>;
  clipTextEmbed(model: ClipHandle, ids: Int32Array, batch: number): Promise<TensorDto>;
  /** exp(logit_scale). */
  clipLogitScale(model: ClipHandle): number;
  loadImageReward(
    engine: EngineHandle,
    source: ModelSourceDto,
    precision: NativePrecision,
  ): Promise<ImageRewardHandle>;
  /**
   * pixels (B,3,H,W), preprocessed; ids and mask (B,T), the mask ones and then zeros -> rewards
   * (B).
   */
  imageRewardScore(
    model: ImageRewardHandle,
    pixels: TensorDto,
    ids: Int32Array,
    mask: Int32Array,
  ): Promise<Float32Array>;
  loadAesthetic(engine: EngineHandle, source: ModelSourceDto): Promise<AestheticHandle>;
  /** embeds (B,P), L2-normalised -> (B). */
  aestheticScore(model: AestheticHandle, embeds: TensorDto): Promise<Float32Array>;

  sample(
    unet: UnetHandle,
    request: SampleRequestDto,
    cancel: CancelHandle | null,
    onStep: ((done: number, total: number) => void) | null,
  ): Promise<SampleResultDto>;
  /** torch.randn(count, generator=Generator().manual_seed(seed)), float32. */
  initialNoise(seed: bigint, count: number): Float32Array;
  /** DDIM etc. timesteps for a scheduler config: for checks. */
  schedulerTimesteps(schedulerConfig: string, steps: number): Float64Array;

  createTrainer(
    engine: EngineHandle,
    init: ModelSourceDto,
    opponent: ModelSourceDto | null,
    options: TrainerOptionsDto,
    /** null: alone. With ranks, resolves once all of them are connected. */
    ranks: RankGroupDto | null,
    cancel: CancelHandle | null,
  ): Promise<TrainerHandle>;
  trainAccumulate(
    trainer: TrainerHandle,
    batch: TrainBatchDto,
    cancel: CancelHandle | null,
  ): Promise<TrainBatchResultDto>;
  /**
   * Takes a micro-batch to the device while it is at work; the next trainAccumulateStaged()
   * computes it, with its own beta.
   */
  trainStage(trainer: TrainerHandle, batch: TrainBatchDto): Promise<void>;
  trainAccumulateStaged(
    trainer: TrainerHandle,
    beta: number | null,
    cancel: CancelHandle | null,
  ): Promise<TrainBatchResultDto>;
  /**
   * Clip, AdamW, EMA, zero gradients; `step` from 0 gives the learning rate, which is multiplied by
   * the scale. Rejects with code "DIVERGED" on a non-finite norm or a loss told later, and changes
   * nothing.
   */
  trainApply(
    trainer: TrainerHandle,
    step: number,
    learningRateScale: number,
    cancel: CancelHandle | null,
  ): Promise<TrainStepResultDto>;
  /**
   * Rank 0's weights, moments and average to all ranks; every rank calls it once before its first
   * step. Alone: nothing.
   */
  trainShareState(trainer: TrainerHandle, cancel: CancelHandle | null): Promise<void>;
  /**
   * Rejects, naming the rank, where one's state is not the same bytes as rank 0's. Alone: nothing.
   */
  trainVerifyRanks(trainer: TrainerHandle, cancel: CancelHandle | null): Promise<void>;
  /**
   * weights.*, adam_m.*, adam_v.*, ema.* as float32 safetensors with `metadata`; written and
   * fsynced at `path`.
   */
  trainSaveState(
    trainer: TrainerHandle,
    path: string,
    metadata: Record<string, string>,
  ): Promise<void>;
  /** Returns the metadata that was saved. */
  trainLoadState(trainer: TrainerHandle, path: string): Promise<Record<string, string>>;
  /**
   * The whole U-Net, adapters added up, or its moving average, as diffusers'
   * diffusion_pytorch_model.safetensors, float32, written and fsynced at `path`.
   */
  trainExport(trainer: TrainerHandle, path: string, averaged: boolean): Promise<void>;
  /** The adapters of a trainer with `lora`, as diffusers' pytorch_lora_weights.safetensors. */
  trainExportAdapters(trainer: TrainerHandle, path: string, averaged: boolean): Promise<void>;

  /** Seconds of a small SPIN step per precision, measured now: what "auto" decides from. */
  measurePrecision(engine: EngineHandle): Promise<{ float32: number; bfloat16: number }>;
  /** RGB bytes (H,W,3) -> (1,3,crop,crop) float32, as `spec.method` says. */
  preprocessImage(
    rgb: Uint8Array,
    width: number,
    height: number,
    spec: ImagePreprocessDto,
  ): Float32Array;
  /**
   * PIL-compatible antialiased resize: filter "bilinear", "bicubic" or "lanczos"; RGB bytes in and
   * out.
   */
  resizeImage(
    rgb: Uint8Array,
    width: number,
    height: number,
    toWidth: number,
    toHeight: number,
    filter: string,
  ): Uint8Array;
  /**
   * Kinds unet, vae, clip_text, clip, image_reward, scheduler, train_step, rng; others are replayed
   * in TypeScript.
   */
  parity(
    engine: EngineHandle,
    directory: string,
    precision: NativePrecision,
  ): Promise<ParityLineDto[]>;
  bench(engine: EngineHandle, options: BenchOptionsDto): Promise<BenchResultDto>;
  /**
   * Reads config and safetensors headers: parameter names and shapes against the architecture.
   * Throws what loading would throw.
   */
  inspectModel(kind: InspectedKind, source: ModelSourceDto): { parameters: number };
}
