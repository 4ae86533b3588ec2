/** Drawing images: from embeddings and seeds to latents. */
import type { PhaseDto, TensorDto } from './native-values.js';

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
  /**
   * (B, C, h, w) latents of images that drawing starts from, and how far they are noised first,
   * above 0 to 1 (diffusers' image-to-image pipelines); null: from noise alone.
   */
  images: TensorDto | null;
  strength: number;
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
