export { EngineError, invalid, toEngineError, type EngineErrorCode } from './errors.js';
export { defaultAddonPath, loadAddon } from './loader.js';
export { Engine, type EngineOptions, type RgbImage } from './engine.js';
export { Aesthetic, Clip, ClipText, ImageReward, Trainer, Unet, Vae } from './models.js';
export type { NativeAddon } from './native.js';
export type {
  BenchOptionsDto,
  BenchResultDto,
  EngineInfoDto,
  GpusDto,
  ParityLineDto,
} from './native-engine.js';
export {
  resizeFilters,
  type AdaptedComponent,
  type AdapterTargetDto,
  type ImagePreprocessDto,
  type InspectedKind,
  type ModelSourceDto,
  type PreprocessMethod,
  type ResizeDto,
  type ResizeFilter,
  type UnetInfoDto,
  type WindowDto,
} from './native-models.js';
export type { SampleRequestDto, SampleResultDto } from './native-sampling.js';
export type {
  RankGroupDto,
  TrainBatchDto,
  TrainBatchResultDto,
  TrainErrorsDto,
  TrainStepResultDto,
  TrainerOptionsDto,
} from './native-training.js';
export type { NativePrecision, PhaseDto, TensorDto } from './native-values.js';
