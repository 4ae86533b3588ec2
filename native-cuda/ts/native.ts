/**
 * Every function that crosses into the C++ addon; the data that they take and give are in the files
 * native-*.ts, by what they are for. Rules of this boundary: plain data and opaque handles only;
 * every field present (`T | null`, no defaults here); tensors are dense Float32Array in PyTorch's
 * layout (NCHW, OIHW) with an explicit shape; every call that computes runs on the engine's own
 * thread and returns a promise; a rejected promise carries an Error with a `code`.
 */
import type {
  BenchOptionsDto,
  BenchResultDto,
  EngineHandle,
  EngineInfoDto,
  EngineOptionsDto,
  GpusDto,
  ParityLineDto,
} from './native-engine.js';
import type {
  AestheticHandle,
  ClipHandle,
  ClipTextHandle,
  ImagePreprocessDto,
  ImageRewardHandle,
  InspectedKind,
  ModelSourceDto,
  ResizeDto,
  UnetHandle,
  UnetInfoDto,
  VaeHandle,
} from './native-models.js';
import type { SampleRequestDto, SampleResultDto } from './native-sampling.js';
import type {
  RankGroupDto,
  TrainBatchDto,
  TrainBatchResultDto,
  TrainStepResultDto,
  TrainerHandle,
  TrainerOptionsDto,
} from './native-training.js';
import type { CancelHandle, NativePrecision, PhaseDto, TensorDto } from './native-values.js';

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
  schedulerTimesteps(schedulerConfig: string, steps: number, strength: number | null): Float64Array;

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
   * Takes a micro-batch to the device while it is at work; the next trainAccumulatePrefetched()
   * computes it, with its own beta.
   */
  trainPrefetch(trainer: TrainerHandle, batch: TrainBatchDto): Promise<void>;
  trainAccumulatePrefetched(
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
  trainBroadcastState(trainer: TrainerHandle, cancel: CancelHandle | null): Promise<void>;
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
  /** Pillow's resize and crop, to the byte: RGB bytes (H,W,3) -> those of `to.window`. */
  resizeImage(rgb: Uint8Array, width: number, height: number, to: ResizeDto): Uint8Array;
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
