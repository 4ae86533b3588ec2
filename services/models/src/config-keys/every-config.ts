import { clipKeys, clipTextKeys, clipVisionKeys, textEncoderKeys } from './clip.js';
import { imageProcessorKeys } from './image-processor.js';
import {
  openClipKeys,
  openClipPreprocessKeys,
  openClipTextKeys,
  openClipVisionKeys,
} from './open-clip.js';
import { stableDiffusionKeys, stableDiffusionXlKeys } from './pipeline.js';
import type { ConfigKeys } from './rules.js';
import { otherSchedulerKeys, sampledSchedulerKeys } from './schedulers.js';
import {
  specialTokensKeys,
  tokenizerJsonKeys,
  tokenizerKeys,
  tokenizerModelKeys,
} from './tokenizer.js';
import { unetKeys } from './unet.js';
import { vaeKeys } from './vae.js';

/** Every kind of config that users bring. */
export const everyConfig: readonly ConfigKeys[] = [
  ...[stableDiffusionKeys, stableDiffusionXlKeys, unetKeys, vaeKeys, textEncoderKeys],
  ...[...Object.values(sampledSchedulerKeys), otherSchedulerKeys],
  ...[tokenizerKeys, specialTokensKeys, tokenizerJsonKeys, tokenizerModelKeys],
  ...[clipKeys, clipTextKeys, clipVisionKeys, imageProcessorKeys],
  ...[openClipKeys, openClipVisionKeys, openClipTextKeys, openClipPreprocessKeys],
];
