export { EngineError, toEngineError, type EngineErrorCode } from './errors.js';
export { defaultAddonPath, loadAddon } from './loader.js';
export { choosePrecision, type PrecisionChoice } from './precision.js';
export { Engine, type EngineOptions, type ResizeFilter, type RgbImage } from './engine.js';
export { Aesthetic, Clip, ClipText, ImageReward, Trainer, Unet, Vae } from './models.js';
export {
  checkSchedulerClass,
  configOf,
  hasPipeline,
  readPipeline,
  readScheduler,
  readVaeScaling,
  resolveScheduler,
  schedulerClasses,
  pipelineKinds,
  type Pipeline,
  type VaeScaling,
} from './pipeline.js';
export { modelPath, type ModelPath } from './model-path.js';
export { ModelCache } from './model-cache.js';
export { componentSource, findWeights, partSource, type WeightsStem } from './weights.js';
export { ClipTokenizer, type Encoding } from './tokenizer.js';
export {
  centerCrop,
  decodeImage,
  decodeImageFile,
  encodePng,
  flipped,
  type Framing,
  maxPixels,
  resizeAndCrop,
  toPixels,
  toRgb,
  type PreparedImage,
} from './images.js';
export { readImagePreprocess } from './clip-preprocess.js';
export {
  concatRows,
  latentSize,
  rows,
  scaleLatents,
  shiftPhases,
  TextEncoder,
  TextToImage,
  unscaleLatents,
  wholeImage,
  type DrawOptions,
  type TextStates,
  type TimeIds,
} from './text-to-image.js';
export { releaseConfigs, releases, type Release, type ReleaseConfigs } from './released/configs.js';
export {
  parameterCount,
  textShapes,
  unetShapes,
  vaeShapes,
  type Shapes,
} from './released/tensors.js';
export { writeRandomModel, type RandomModelOptions, type WeightDtype } from './released/write.js';
export {
  aestheticShape,
  aestheticSource,
  ClipJudge,
  ImageRewardJudge,
  loadAestheticHead,
  readClipFolder,
  type ClipFolder,
  type TokenizerPlaces,
} from './judges.js';
export {
  cosineScale,
  defaultPreprocess,
  fileDigests,
  isJudgeKind,
  isPreprocessMethod,
  judgeKinds,
  preprocessMethods,
  type JudgeFile,
  type JudgeInfo,
  type JudgeKind,
} from './judge-kinds.js';
export {
  aestheticInfo,
  cosineInfo,
  imageRewardInfo,
  inspectJudge,
  judgeSpec,
  type InspectedJudge,
  type JudgeNames,
  loadJudge,
  type JudgeSpec,
  type LoadedJudge,
} from './loaded-judge.js';
export { WordPieceTokenizer } from './wordpiece.js';
export { inspectFolder, type IntendedSampling, type ModelReport } from './inspect.js';
export { parseJson, stringifyJson, isObject, type JsonObject, type JsonValue } from './json.js';
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
