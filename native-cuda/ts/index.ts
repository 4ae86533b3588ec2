export { EngineError, invalid, toEngineError, type EngineErrorCode } from './errors.js';
export { defaultAddonPath, loadAddon } from './loader.js';
export { Engine, type EngineOptions, type ResizeFilter, type RgbImage } from './engine.js';
export { Aesthetic, Clip, ClipText, ImageReward, Trainer, Unet, Vae } from './models.js';
export type { NativeAddon } from './native.js';
export type {
  BenchOptionsDto,
  BenchResultDto,
  EngineInfoDto,
  GpusDto,
  ParityLineDto,
} from './native-engine.js';
export type {
  AdaptedComponent,
  AdapterTargetDto,
  ImagePreprocessDto,
  InspectedKind,
  ModelSourceDto,
  PreprocessMethod,
  UnetInfoDto,
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
