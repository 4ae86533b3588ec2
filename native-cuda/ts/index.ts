export { EngineError, invalid, toEngineError, type EngineErrorCode } from './errors.js';
export { defaultAddonPath, loadAddon } from './loader.js';
export { Engine, type EngineOptions, type ResizeFilter, type RgbImage } from './engine.js';
export { Aesthetic, Clip, ClipText, ImageReward, Trainer, Unet, Vae } from './models.js';
export type {
  BenchOptionsDto,
  BenchResultDto,
  EngineInfoDto,
  GpusDto,
  ImagePreprocessDto,
  InspectedKind,
  ModelSourceDto,
  NativeAddon,
  NativePrecision,
  ParityLineDto,
  PhaseDto,
  PreprocessMethod,
  RankGroupDto,
  SampleRequestDto,
  SampleResultDto,
  TensorDto,
  TrainBatchDto,
  TrainBatchResultDto,
  TrainErrorsDto,
  TrainerOptionsDto,
  TrainStepResultDto,
  UnetInfoDto,
} from './native.js';
