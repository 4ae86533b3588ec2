export {
  dataFormats,
  describeRef,
  Skipped,
  type DataFormat,
  type DataRow,
  type DataSource,
  type ImageRef,
} from './rows.js';
export { isRemote, localFiles, type FileEntry, type Files } from './files.js';
export { hubBlobs } from './folder.js';
export { openFiles } from './s3-files.js';
export { openDataSource, type DataSpec } from './open.js';
export { ImageReader } from './images.js';
export { Manifest, manifestLine, parseManifestLine, type ManifestRow } from './manifest.js';
export { Prompts } from './prompts.js';
export { parsePromptList, writePromptList } from './prompt-list.js';
export { readPromptSet, type HeldOutPrompt, type PromptColumns } from './prompt-set.js';
export {
  bucketTable,
  nearestSize,
  sizeName,
  type BucketSettings,
  type ImageSize,
} from './buckets.js';
