/**
 * Typed handles over the addon's: every call turns an AbortSignal into the addon's cancel handle
 * and every failure into an EngineError. A handle is freed by release() or by garbage collection.
 */
import { EngineError, toEngineError } from './errors.js';
import type { NativeAddon } from './native.js';
import type {
  AestheticHandle,
  ClipHandle,
  ClipTextHandle,
  ImageRewardHandle,
  UnetHandle,
  UnetInfoDto,
  VaeHandle,
} from './native-models.js';
import type { SampleRequestDto, SampleResultDto } from './native-sampling.js';
import type {
  TrainBatchDto,
  TrainBatchResultDto,
  TrainStepResultDto,
  TrainerHandle,
} from './native-training.js';
import type { CancelHandle, PhaseDto, TensorDto } from './native-values.js';

export async function call<T>(work: () => Promise<T> | T): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    throw toEngineError(thrown);
  }
}

/** Runs `work` with a cancel handle that fires when `signal` aborts. */
export async function cancellable<T>(
  addon: NativeAddon,
  signal: AbortSignal | undefined,
  work: (cancel: CancelHandle | null) => Promise<T>,
): Promise<T> {
  if (signal === undefined) return call(() => work(null));
  if (signal.aborted)
    throw new EngineError('CANCELLED', 'cancelled before the engine call started', {
      cause: signal.reason,
    });
  const handle = addon.createCancel();
  const onAbort = (): void => addon.cancel(handle);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await call(() => work(handle));
  } finally {
    signal.removeEventListener('abort', onAbort);
    addon.release(handle);
  }
}

abstract class Model<Handle extends object> {
  #released = false;

  constructor(
    protected readonly addon: NativeAddon,
    protected readonly handle: Handle,
  ) {}

  /** Frees the weights now; the model must not be used afterwards. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.addon.release(this.handle);
  }
}

/** A U-Net in the engine's memory. */
export class Unet extends Model<UnetHandle> {
  get info(): UnetInfoDto {
    return this.addon.unetInfo(this.handle);
  }

  forward(sample: TensorDto, timesteps: number[], text: TensorDto): Promise<TensorDto> {
    return call(() => this.addon.unetForward(this.handle, sample, timesteps, text));
  }

  sample(
    request: SampleRequestDto,
    options: { signal?: AbortSignal; onStep?: (done: number, total: number) => void } = {},
  ): Promise<SampleResultDto> {
    return cancellable(this.addon, options.signal, (cancel) =>
      this.addon.sample(this.handle, request, cancel, options.onStep ?? null),
    );
  }
}

/** An autoencoder in the engine's memory. */
export class Vae extends Model<VaeHandle> {
  encode(
    pixels: TensorDto,
    signal?: AbortSignal,
  ): Promise<{ mean: TensorDto; logvar: TensorDto; phases: PhaseDto[] }> {
    return cancellable(this.addon, signal, (cancel) =>
      this.addon.vaeEncode(this.handle, pixels, cancel),
    );
  }

  decode(
    latents: TensorDto,
    signal?: AbortSignal,
  ): Promise<{ pixels: TensorDto; phases: PhaseDto[] }> {
    return cancellable(this.addon, signal, (cancel) =>
      this.addon.vaeDecode(this.handle, latents, cancel),
    );
  }
}

/** CLIP's text encoder in the engine's memory. */
export class ClipText extends Model<ClipTextHandle> {
  encode(
    ids: Int32Array,
    batch: number,
    signal?: AbortSignal,
  ): Promise<{
    lastHiddenState: TensorDto;
    penultimate: TensorDto;
    pooled: TensorDto;
    phases: PhaseDto[];
  }> {
    return cancellable(this.addon, signal, (cancel) =>
      this.addon.clipTextEncode(this.handle, ids, batch, cancel),
    );
  }
}

/** A whole CLIP: embeddings of images and of texts. */
export class Clip extends Model<ClipHandle> {
  get logitScale(): number {
    return this.addon.clipLogitScale(this.handle);
  }

  imageEmbed(pixels: TensorDto): Promise<TensorDto> {
    return call(() => this.addon.clipImageEmbed(this.handle, pixels));
  }

  textEmbed(ids: Int32Array, batch: number): Promise<TensorDto> {
    return call(() => this.addon.clipTextEmbed(this.handle, ids, batch));
  }
}

/** ImageReward's BLIP and head in the engine's memory. */
export class ImageReward extends Model<ImageRewardHandle> {
  /** pixels (B,3,H,W), ids and mask (B,T) -> rewards (B). */
  score(pixels: TensorDto, ids: Int32Array, mask: Int32Array): Promise<Float32Array> {
    return call(() => this.addon.imageRewardScore(this.handle, pixels, ids, mask));
  }
}

/** The aesthetic head: embeddings (B,D) -> one number each. */
export class Aesthetic extends Model<AestheticHandle> {
  score(embeds: TensorDto): Promise<Float32Array> {
    return call(() => this.addon.aestheticScore(this.handle, embeds));
  }
}

export class Trainer extends Model<TrainerHandle> {
  #prefetched: TrainBatchDto | undefined;

  /**
   * Brings a micro-batch to the device early; accumulate() of one with the same tensors finds it
   * there. One at a time.
   */
  prefetch(batch: TrainBatchDto): Promise<void> {
    this.#prefetched = batch;
    return call(() => this.addon.trainPrefetch(this.handle, batch));
  }

  accumulate(batch: TrainBatchDto, signal?: AbortSignal): Promise<TrainBatchResultDto> {
    const prefetched = this.#prefetched;
    if (
      prefetched?.step === batch.step &&
      prefetched.offset === batch.offset &&
      prefetched.real === batch.real
    ) {
      this.#prefetched = undefined;
      return cancellable(this.addon, signal, (cancel) =>
        this.addon.trainAccumulatePrefetched(this.handle, batch.beta, cancel),
      );
    }
    return cancellable(this.addon, signal, (cancel) =>
      this.addon.trainAccumulate(this.handle, batch, cancel),
    );
  }

  apply(step: number, learningRateScale = 1, signal?: AbortSignal): Promise<TrainStepResultDto> {
    return cancellable(this.addon, signal, (cancel) =>
      this.addon.trainApply(this.handle, step, learningRateScale, cancel),
    );
  }

  broadcastState(signal?: AbortSignal): Promise<void> {
    return cancellable(this.addon, signal, (cancel) =>
      this.addon.trainBroadcastState(this.handle, cancel),
    );
  }

  verifyRanks(signal?: AbortSignal): Promise<void> {
    return cancellable(this.addon, signal, (cancel) =>
      this.addon.trainVerifyRanks(this.handle, cancel),
    );
  }

  saveState(path: string, metadata: Record<string, string>): Promise<void> {
    return call(() => this.addon.trainSaveState(this.handle, path, metadata));
  }

  loadState(path: string): Promise<Record<string, string>> {
    return call(() => this.addon.trainLoadState(this.handle, path));
  }

  /** `averaged`: the moving average instead of the weights. */
  export(path: string, averaged: boolean): Promise<void> {
    return call(() => this.addon.trainExport(this.handle, path, averaged));
  }

  exportAdapters(path: string, averaged: boolean): Promise<void> {
    return call(() => this.addon.trainExportAdapters(this.handle, path, averaged));
  }
}
