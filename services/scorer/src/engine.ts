/** The scorer's port to the engine, and the adapter that the process runs on; tests bring a port of their own. */
import { ClipJudge, decodeImage, loadAestheticHead, type Engine, type EngineInfoDto, type RgbImage, type TensorDto } from '@spindle/native';

/** A CLIP model with its preprocessing and tokenizer. */
export interface LoadedClip {
  /** (N, P), L2-normalised. */
  embedImages(images: readonly RgbImage[]): Promise<TensorDto>;
  /** exp(logit_scale) * cos(image, text), pair by pair. */
  score(images: TensorDto, texts: readonly string[]): Promise<number[]>;
  release(): void;
}

/** An aesthetic head on a CLIP model's image embedding. */
export interface LoadedHead {
  score(images: TensorDto): Promise<Float32Array>;
  release(): void;
}

export interface ScorerEngine {
  readonly info: EngineInfoDto;
  readImage(bytes: Buffer, where: string): Promise<RgbImage>;
  loadClip(directory: string): Promise<LoadedClip>;
  loadHead(directory: string): Promise<LoadedHead>;
  close(): void;
}

export function nativeEngine(engine: Engine): ScorerEngine {
  return {
    info: engine.info,
    readImage: decodeImage,
    // Judges are small and their scores are compared with each other: always float32.
    loadClip: (directory) => ClipJudge.load(engine, directory, 'float32'),
    loadHead: (directory) => loadAestheticHead(engine, directory),
    close: () => engine.close(),
  };
}
