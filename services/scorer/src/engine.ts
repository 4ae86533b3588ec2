/**
 * The scorer's port to the engine, and the adapter that the process runs on; tests bring a port of
 * their own.
 */
import {
  aestheticInfo,
  aestheticShape,
  aestheticSource,
  ClipJudge,
  cosineInfo,
  cosineScale,
  decodeImage,
  defaultPreprocess,
  fileDigests,
  inspectFolder,
  inspectJudge,
  judgeSpec,
  ImageRewardJudge,
  imageRewardInfo,
  loadAestheticHead,
  type JudgeFile,
  type JudgeInfo,
  type JudgeNames,
} from '@spindle/models';
import { type Engine, type EngineInfoDto, type RgbImage, type TensorDto } from '@spindle/native';
import type { Metric } from './domain/metrics.js';

export interface Judged {
  values: ArrayLike<number> & Iterable<number>;
  judge: JudgeInfo;
}

/** A loaded model that one or several metrics use. */
export interface LoadedModel {
  /**
   * Scores of a batch by each of `metrics`, in their order; images are embedded once per way of
   * preprocessing.
   */
  judge(
    metrics: readonly Metric[],
    images: readonly RgbImage[],
    prompts: readonly string[],
    heads: HeadSource,
  ): Promise<Judged[]>;
  release(): void;
}

/** Linear layers on a CLIP model's image embedding. */
export interface LoadedHead {
  version: string;
  files: JudgeFile[];
  score(images: TensorDto): Promise<Float32Array>;
  release(): void;
}

export type HeadSource = <T>(path: string, work: (head: LoadedHead) => Promise<T>) => Promise<T>;

/** What a judge's model or head is, from configs and headers alone. */
export interface InspectedPart {
  /** "CLIPModel", "ImageReward", "AestheticHead", …: whatever lies there. */
  kind: string;
  embeddingWidth: number;
  textTokens: number;
  /** What its files leave open, and what is taken for it. */
  warnings: readonly string[];
}

/** What the scorer needs of an engine. */
export interface ScorerEngine {
  readonly info: EngineInfoDto;
  /** The judge without its head; throws what loading it would throw. */
  inspectJudge(judge: JudgeNames): InspectedPart;
  inspectHead(path: string): InspectedPart;
  readImage(bytes: Buffer, where: string): Promise<RgbImage>;
  /** The model of these metrics, which share it. */
  loadModel(metric: Metric): Promise<LoadedModel>;
  loadHead(path: string): Promise<LoadedHead>;
  close(): void;
}

// Judges are compared with each other: always float32.
const precision = 'float32';

export function nativeEngine(engine: Engine): ScorerEngine {
  return {
    info: engine.info,
    inspectJudge(judge) {
      // A head is inspected on its own; what it lies on is a CLIP model like any other.
      const kind = judge.kind === 'aesthetic' ? 'clip' : judge.kind;
      return inspectJudge(engine, judgeSpec({ ...judge, kind, headPath: '' }, 'judge'));
    },
    inspectHead: (path) => inspectFolder(engine, path),
    readImage: decodeImage,
    loadModel: (metric) =>
      metric.kind === 'image_reward' ? loadImageReward(engine, metric) : loadClip(engine, metric),
    async loadHead(path) {
      const head = await loadAestheticHead(engine, path);
      return {
        version: aestheticShape(path).version,
        files: await fileDigests(aestheticSource(path).weights),
        score: (images) => head.score(images),
        release: () => head.release(),
      };
    },
    close: () => engine.close(),
  };
}

function places({ tokenizerPath, fallbackTokenizerPath }: Metric) {
  return { tokenizer: tokenizerPath || undefined, fallback: fallbackTokenizerPath || undefined };
}

async function loadClip(engine: Engine, metric: Metric): Promise<LoadedModel> {
  const clip = await ClipJudge.load(engine, metric.clipPath, precision, places(metric));
  const files = await fileDigests(clip.folder.source.weights);
  return {
    async judge(metrics, images, prompts, heads) {
      const embedded = new Map<string, Promise<TensorDto>>();
      const embed = (one: Metric): Promise<TensorDto> => {
        const method = one.preprocess ?? defaultPreprocess(one.kind);
        const key = method ?? clip.folder.preprocess.method;
        const known = embedded.get(key) ?? clip.embedImages(images, method);
        embedded.set(key, known);
        return known;
      };
      const judged: Judged[] = [];
      for (const one of metrics) {
        const embeds = await embed(one);
        if (one.kind === 'aesthetic') {
          judged.push(
            await heads(one.headPath, async (head) => ({
              values: await head.score(embeds),
              judge: aestheticInfo(one, clip.folder, head.version, [...files, ...head.files]),
            })),
          );
          continue;
        }
        const scale = cosineScale(one.kind, clip.logitScale, one.scale);
        const values = (await clip.cosines(embeds, prompts)).map((cosine) => scale * cosine);
        judged.push({ values, judge: cosineInfo(one, clip.folder, files, clip.logitScale) });
      }
      return judged;
    },
    release: () => clip.release(),
  };
}

async function loadImageReward(engine: Engine, metric: Metric): Promise<LoadedModel> {
  const model = await ImageRewardJudge.load(engine, metric.clipPath, precision, places(metric));
  const files = await fileDigests(model.folder.source.weights);
  return {
    async judge(metrics, images, prompts) {
      const judged: Judged[] = [];
      for (const one of metrics)
        judged.push({
          values: await model.score(images, prompts, one.preprocess),
          judge: imageRewardInfo(one, model.folder, files),
        });
      return judged;
    },
    release: () => model.release(),
  };
}
