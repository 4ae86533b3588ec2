import { toEngineError } from './errors.js';
import { loadAddon } from './loader.js';
import {
  Aesthetic,
  call,
  cancellable,
  Clip,
  ClipText,
  ImageReward,
  Trainer,
  Unet,
  Vae,
} from './models.js';
import type { NativeAddon } from './native.js';
import type {
  BenchOptionsDto,
  BenchResultDto,
  EngineHandle,
  EngineInfoDto,
  ParityLineDto,
} from './native-engine.js';
import type {
  ImagePreprocessDto,
  InspectedKind,
  ModelSourceDto,
  ResizeDto,
} from './native-models.js';
import type { RankGroupDto, TrainerOptionsDto } from './native-training.js';
import type { NativePrecision } from './native-values.js';

export interface EngineOptions {
  /**
   * "cpu" unless told; "cuda" or "cuda:1" (its second device), "auto" (cuda where it can be used,
   * else cpu); "reference" is slow and for checks.
   */
  backend?: string;
  /** 0, the default: all cores this process may use. */
  threads?: number;
  /** Highest instruction set to use; "auto" unless told. */
  isa?: string;
  /** The addon's file, or the addon itself in tests. */
  addon?: string | NativeAddon;
}

/** An image as bytes. */
export interface RgbImage {
  /** (height, width, 3) */
  rgb: Uint8Array;
  width: number;
  height: number;
}

/** One device and its thread; calls are queued there and never block the event loop. */
export class Engine {
  readonly info: EngineInfoDto;
  readonly #addon: NativeAddon;
  readonly #handle: EngineHandle;

  private constructor(addon: NativeAddon, handle: EngineHandle) {
    this.#addon = addon;
    this.#handle = handle;
    this.info = addon.engineInfo(handle);
  }

  static open(options: EngineOptions = {}): Engine {
    const addon =
      options.addon === undefined || typeof options.addon === 'string'
        ? loadAddon(options.addon)
        : options.addon;
    try {
      return new Engine(
        addon,
        addon.createEngine({
          backend: options.backend ?? 'cpu',
          threads: options.threads ?? 0,
          isa: options.isa ?? 'auto',
        }),
      );
    } catch (thrown) {
      throw toEngineError(thrown);
    }
  }

  close(): void {
    this.#addon.release(this.#handle);
  }

  async loadUnet(source: ModelSourceDto, precision: NativePrecision): Promise<Unet> {
    return new Unet(
      this.#addon,
      await call(() => this.#addon.loadUnet(this.#handle, source, precision)),
    );
  }

  async loadVae(source: ModelSourceDto, precision: NativePrecision): Promise<Vae> {
    return new Vae(
      this.#addon,
      await call(() => this.#addon.loadVae(this.#handle, source, precision)),
    );
  }

  async loadClipText(source: ModelSourceDto, precision: NativePrecision): Promise<ClipText> {
    return new ClipText(
      this.#addon,
      await call(() => this.#addon.loadClipText(this.#handle, source, precision)),
    );
  }

  async loadClip(source: ModelSourceDto, precision: NativePrecision): Promise<Clip> {
    return new Clip(
      this.#addon,
      await call(() => this.#addon.loadClip(this.#handle, source, precision)),
    );
  }

  async loadImageReward(source: ModelSourceDto, precision: NativePrecision): Promise<ImageReward> {
    return new ImageReward(
      this.#addon,
      await call(() => this.#addon.loadImageReward(this.#handle, source, precision)),
    );
  }

  async loadAesthetic(source: ModelSourceDto): Promise<Aesthetic> {
    return new Aesthetic(
      this.#addon,
      await call(() => this.#addon.loadAesthetic(this.#handle, source)),
    );
  }

  /** `ranks` makes this process one of several that train together. */
  async createTrainer(
    init: ModelSourceDto,
    opponent: ModelSourceDto | null,
    options: TrainerOptionsDto,
    ranks: RankGroupDto | null = null,
    signal?: AbortSignal,
  ): Promise<Trainer> {
    const handle = await cancellable(this.#addon, signal, (cancel) =>
      this.#addon.createTrainer(this.#handle, init, opponent, options, ranks, cancel),
    );
    return new Trainer(this.#addon, handle);
  }

  measurePrecision(): Promise<{ float32: number; bfloat16: number }> {
    return call(() => this.#addon.measurePrecision(this.#handle));
  }

  parity(directory: string, precision: NativePrecision): Promise<ParityLineDto[]> {
    return call(() => this.#addon.parity(this.#handle, directory, precision));
  }

  bench(options: BenchOptionsDto): Promise<BenchResultDto> {
    return call(() => this.#addon.bench(this.#handle, options));
  }

  /** torch.randn(count, generator=Generator().manual_seed(seed)) */
  initialNoise(seed: bigint, count: number): Float32Array {
    return this.#sync(() => this.#addon.initialNoise(seed, count));
  }

  schedulerTimesteps(
    schedulerConfig: string,
    steps: number,
    strength: number | null = null,
  ): Float64Array {
    return this.#sync(() => this.#addon.schedulerTimesteps(schedulerConfig, steps, strength));
  }

  preprocessImage(image: RgbImage, spec: ImagePreprocessDto): Float32Array {
    return this.#sync(() =>
      this.#addon.preprocessImage(image.rgb, image.width, image.height, spec),
    );
  }

  /** Pillow's Image.resize and Image.crop, to the byte; only the window is computed. */
  resizeImage(image: RgbImage, to: ResizeDto): RgbImage {
    return {
      rgb: this.#sync(() => this.#addon.resizeImage(image.rgb, image.width, image.height, to)),
      width: to.window.width,
      height: to.window.height,
    };
  }

  inspectModel(kind: InspectedKind, source: ModelSourceDto): { parameters: number } {
    return this.#sync(() => this.#addon.inspectModel(kind, source));
  }

  #sync<T>(work: () => T): T {
    try {
      return work();
    } catch (thrown) {
      throw toEngineError(thrown);
    }
  }
}
