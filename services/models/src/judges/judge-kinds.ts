/** What a metric's kind means: how a judge's number comes about, and how a report names it. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type PreprocessMethod } from '@spindle/native';

/**
 * clip: exp(logit_scale) · cosine of any CLIP model. pickscore, hpsv2, clip_score: 100 · cosine, as
 * published tables have it. image_reward: BLIP's reward. aesthetic: a head on a CLIP model's image
 * embedding.
 */
export const judgeKinds = [
  'clip',
  'pickscore',
  'hpsv2',
  'clip_score',
  'image_reward',
  'aesthetic',
] as const;
export type JudgeKind = (typeof judgeKinds)[number];

export function isJudgeKind(kind: string): kind is JudgeKind {
  return (judgeKinds as readonly string[]).includes(kind);
}

export const preprocessMethods: readonly PreprocessMethod[] = [
  'transformers',
  'torchvision',
  'tensor',
  'tensor_antialias',
];

export function isPreprocessMethod(method: string): method is PreprocessMethod {
  return (preprocessMethods as readonly string[]).includes(method);
}

/**
 * The preprocessing of a kind's own code; undefined: the model's (preprocessor_config.json,
 * ImageReward's torchvision).
 */
export function defaultPreprocess(kind: JudgeKind): PreprocessMethod | undefined {
  return kind === 'hpsv2' ? 'tensor' : undefined;
}

/** What cosines are multiplied by; `asked` 0 or undefined: the kind's own. */
export function cosineScale(
  kind: JudgeKind,
  logitScale: number,
  asked: number | undefined,
): number {
  if (asked !== undefined && asked !== 0) return asked;
  return kind === 'clip' ? logitScale : 100;
}

/** A file of a judge, so that its numbers can be compared with others'. */
export interface JudgeFile {
  /** File name without folders: reports are shared. */
  name: string;
  /** "sha256:…" of the file's bytes. */
  digest: string;
}

/** What a report says of a judge. */
export interface JudgeInfo {
  kind: JudgeKind;
  files: JudgeFile[];
  /** E.g. "v2.1, CLIP ViT 1280x32, patch 14, 224 px". */
  variant: string;
  /** How the number comes about, e.g. "100 · cosine". */
  scale: string;
  preprocess: string;
}

/** "v2.1" and "v2.0" as HPSv2's files are called; empty when the name does not say. */
export function hpsVersion(file: string): string {
  const name = basename(file).toLowerCase();
  if (/v2[._]1/.test(name)) return 'v2.1';
  return /hps_?v2/.test(name) ? 'v2.0' : '';
}

const known = new Map<string, Promise<string>>();

/** Digests of files; a file that has not changed is read once per process. */
export function fileDigests(paths: readonly string[]): Promise<JudgeFile[]> {
  return Promise.all(
    paths.map(async (path) => {
      const { size, mtimeMs } = await stat(path);
      const key = `${path}:${size}:${mtimeMs}`;
      const digest = known.get(key) ?? sha256(path);
      known.set(key, digest);
      digest.catch(() => known.delete(key));
      return { name: basename(path), digest: await digest };
    }),
  );
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return `sha256:${hash.digest('hex')}`;
}
