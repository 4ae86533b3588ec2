/** Which files a judge is read from (files/model-files.ts). */
import { modelPath } from '@spindle/kit';
import { configFiles, judgeFolderFiles } from '../files/model-files.js';
import { aestheticSource, clipSource, imageRewardWeights } from './judges.js';
import type { JudgeKind } from './judge-kinds.js';

/** Of the judge without its head: model, preprocessing, and the tokenizers that it may take. */
export function judgeFiles(judge: {
  kind: JudgeKind;
  clipPath: string;
  tokenizerPath: string;
  fallbackTokenizerPath: string;
}): string[] {
  const { kind, clipPath, tokenizerPath, fallbackTokenizerPath } = judge;
  const files = judgeFolderFiles(clipPath, () =>
    kind === 'image_reward'
      ? [imageRewardWeights(clipPath)]
      : clipSource(clipPath, () => undefined).source.weights,
  );
  const tokenizers = [tokenizerPath, fallbackTokenizerPath]
    .filter((path) => path !== '')
    .flatMap((path) => configFiles(modelPath(path).directory));
  return [...new Set([...files, ...tokenizers])];
}

/** Of an aesthetic head. */
export function headFiles(path: string): string[] {
  return judgeFolderFiles(path, () => aestheticSource(path).weights);
}
