/** Models: their files, what is loaded from them, and how images come to a judge's size. */

/** A part of a pipeline that LoRA files adapt. */
export type AdaptedComponent = 'unet' | 'text_encoder' | 'text_encoder_2';

/** What of a LoRA file a model takes. */
export interface AdapterTargetDto {
  /** What the model is. */
  component: AdaptedComponent;
  /**
   * What the caller adds the file to, or leaves out on purpose: a file with adapters of another
   * component is refused.
   */
  components: AdaptedComponent[];
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
   * on from the only one. Without `target` the model is a U-Net, and the file has nothing else.
   */
  adapters?: { path: string; scale: number; target?: AdapterTargetDto }[];
}

export type InspectedKind = 'unet' | 'vae' | 'clip_text' | 'clip' | 'image_reward' | 'aesthetic';

/** Opaque handles; freed by garbage collection, or at once by release(). */
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

export interface UnetInfoDto {
  parameters: number;
  inChannels: number;
  outChannels: number;
  sampleHeight: number;
  sampleWidth: number;
  crossAttentionDim: number;
}

/** Pillow's filters, in the order of its numbers (`resample` in the config of a processor). */
export const resizeFilters = [
  'nearest',
  'lanczos',
  'bilinear',
  'bicubic',
  'box',
  'hamming',
  'mks2013',
  'mks2021',
] as const;
/** One of Pillow's filters by its name. */
export type ResizeFilter = (typeof resizeFilters)[number];

/** A part of an image, in pixels. */
export interface WindowDto {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** The size of a whole image, and the part of it that is wanted. */
export interface ResizeDto {
  width: number;
  height: number;
  filter: ResizeFilter;
  window: WindowDto;
}

/**
 * How an image comes to a judge's size. "transformers": CLIPImageProcessor on Pillow, shortest
 * edge, centre crop; "torchvision": the same but for how a crop's odd offset is rounded; "tensor":
 * bicubic of floats without antialiasing, longest edge, padded with zeros (HPSv2's code under
 * torchvision up to 0.16); "tensor_antialias": the same with antialiasing (torchvision 0.17 and
 * later).
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
  /** Not of the tensor methods. */
  filter: ResizeFilter;
  /** What bytes are multiplied by; the other methods than "transformers" divide by 255. */
  rescale: number;
}
