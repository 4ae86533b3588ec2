export { adaptedUnet, loraFile, loraParts, type LoraFile } from './pipeline/adapters.js';
export { writeKohyaLora, writeSingleFile } from './convert/for-other-tools.js';
export { choosePrecision, type PrecisionChoice } from './pipeline/precision.js';
export {
  configOf,
  hasPipeline,
  readPipeline,
  readVaeScaling,
  pipelineKinds,
  type Pipeline,
  type VaeScaling,
} from './pipeline/pipeline.js';
export { checkSchedulerClass, readScheduler, resolveScheduler } from './pipeline/scheduler.js';
export { everyConfig } from './config-keys/every-config.js';
export { type ConfigKeys, type KeyRule } from './config-keys/rules.js';
export { schedulerClasses } from './config-keys/schedulers.js';
export { ModelCache } from './pipeline/model-cache.js';
export { componentSource, findWeights, partSource, type WeightsStem } from './files/weights.js';
export { pipelineFiles, unetFiles } from './files/model-files.js';
export { headFiles, judgeFiles } from './judges/judge-files.js';
export { ClipTokenizer, type Encoding } from './text/tokenizer.js';
export {
  decodeImage,
  decodeImageFile,
  imageVersion,
  maxPixels,
  useImage,
} from './pipeline/decode-image.js';
export {
  centerCrop,
  encodePng,
  flipped,
  type Framing,
  resizeAndCrop,
  toPixels,
  toRgb,
  type PreparedImage,
} from './pipeline/images.js';
export { refuseUnsupportedImage } from './pipeline/image-formats.js';
export { readImagePreprocess } from './judges/clip-preprocess.js';
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
} from './pipeline/text-to-image.js';
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
} from './judges/judges.js';
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
} from './judges/judge-kinds.js';
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
} from './judges/loaded-judge.js';
export { WordPieceTokenizer } from './text/wordpiece.js';
export { inspectFolder, type IntendedSampling, type ModelReport } from './inspect/inspect.js';
export {
  parseJson,
  stringifyJson,
  isObject,
  type JsonObject,
  type JsonValue,
} from './files/json.js';
