/** One judge by its kind, whole: for the command line, and for checks of what a config names. */
import {
  type Engine,
  type RgbImage,
  invalid,
  type NativePrecision,
  type PreprocessMethod,
} from '@spindle/native';
import {
  cosineScale,
  defaultPreprocess,
  fileDigests,
  hpsVersion,
  isJudgeKind,
  isPreprocessMethod,
  judgeKinds,
  preprocessMethods,
  type JudgeFile,
  type JudgeInfo,
  type JudgeKind,
} from './judge-kinds.js';
import {
  aestheticShape,
  aestheticSource,
  ClipJudge,
  ImageRewardJudge,
  loadAestheticHead,
  readClipFolder,
  readImageRewardFolder,
  type ClipFolder,
  type ImageRewardFolder,
  type TokenizerPlaces,
} from './judges.js';

export interface JudgeSpec extends TokenizerPlaces {
  kind: JudgeKind;
  /** Folder or safetensors file of the model. */
  model: string;
  /** Of an aesthetic head; for that kind alone. */
  head?: string | undefined;
  preprocess?: PreprocessMethod | undefined;
  scale?: number | undefined;
  /** Named in reports in place of what the file's name says. */
  variant?: string | undefined;
}

export interface LoadedJudge {
  info: JudgeInfo;
  warnings: readonly string[];
  score(images: readonly RgbImage[], texts: readonly string[]): Promise<number[]>;
  release(): void;
}

export async function loadJudge(
  engine: Engine,
  spec: JudgeSpec,
  precision: NativePrecision,
): Promise<LoadedJudge> {
  checkHead(spec);
  const method = spec.preprocess ?? defaultPreprocess(spec.kind);
  if (spec.kind === 'image_reward') {
    const judge = await ImageRewardJudge.load(engine, spec.model, precision, spec);
    return {
      warnings: [],
      info: imageRewardInfo(spec, judge.folder, await fileDigests(judge.folder.source.weights)),
      score: async (images, texts) => [...(await judge.score(images, texts, method))],
      release: () => judge.release(),
    };
  }
  const clip = await ClipJudge.load(engine, spec.model, precision, spec);
  const files = await fileDigests(clip.folder.source.weights);
  if (spec.kind !== 'aesthetic') {
    const scale = cosineScale(spec.kind, clip.logitScale, spec.scale);
    return {
      warnings: clip.folder.warnings,
      info: cosineInfo(spec, clip.folder, files, clip.logitScale),
      score: async (images, texts) =>
        (await clip.cosines(await clip.embedImages(images, method), texts)).map(
          (cosine) => scale * cosine,
        ),
      release: () => clip.release(),
    };
  }
  const headPath = spec.head ?? '';
  const head = await loadAestheticHead(engine, headPath);
  const headFiles = await fileDigests(aestheticSource(headPath).weights);
  return {
    warnings: clip.folder.warnings,
    info: aestheticInfo(spec, clip.folder, aestheticShape(headPath).version, [
      ...files,
      ...headFiles,
    ]),
    score: async (images) => [...(await head.score(await clip.embedImages(images, method)))],
    release: () => {
      head.release();
      clip.release();
    },
  };
}

function checkHead({ kind, head }: JudgeSpec): void {
  if (kind === 'aesthetic' && head === undefined)
    throw invalid('head', "expected the head's folder or file for kind aesthetic, got nothing");
  if (kind !== 'aesthetic' && head !== undefined)
    throw invalid('head', `expected nothing for kind ${kind}, got "${head}"`);
}

type Described = Pick<JudgeSpec, 'kind' | 'preprocess' | 'scale' | 'variant'>;

/** What a judge by cosine similarity was. */
export function cosineInfo(
  spec: Described,
  folder: ClipFolder,
  files: JudgeFile[],
  logitScale: number,
): JudgeInfo {
  const scale = cosineScale(spec.kind, logitScale, spec.scale);
  const own = spec.kind === 'clip' && scale === logitScale;
  const version =
    spec.variant ?? (spec.kind === 'hpsv2' ? hpsVersion(folder.source.weights[0] ?? '') : '');
  return {
    kind: spec.kind,
    files,
    variant: [version, folder.architecture].filter((part) => part !== '').join(', '),
    scale: own
      ? `exp(logit_scale) = ${Number(scale.toPrecision(6))} · cosine`
      : `${scale} · cosine`,
    preprocess: spec.preprocess ?? defaultPreprocess(spec.kind) ?? folder.preprocess.method,
  };
}

/** What an aesthetic judge was. */
export function aestheticInfo(
  spec: Described,
  folder: ClipFolder,
  version: string,
  files: JudgeFile[],
): JudgeInfo {
  return {
    kind: spec.kind,
    files,
    variant: `${spec.variant ?? `LAION ${version}`}, ${folder.architecture}`,
    scale: "the head's own, nominally 1 to 10",
    preprocess: spec.preprocess ?? folder.preprocess.method,
  };
}

/** What an ImageReward judge was. */
export function imageRewardInfo(
  spec: Described,
  folder: ImageRewardFolder,
  files: JudgeFile[],
): JudgeInfo {
  return {
    kind: spec.kind,
    files,
    variant: spec.variant ?? 'v1.0',
    scale: `(x − ${folder.mean.toFixed(5)}) / ${folder.std.toFixed(5)}`,
    preprocess: spec.preprocess ?? folder.preprocess.method,
  };
}

export interface InspectedJudge {
  /** "CLIPModel" or "ImageReward". */
  kind: string;
  parameters: number;
  embeddingWidth: number;
  textTokens: number;
  /** What its files leave open, and what is taken for it. */
  warnings: string[];
}

/** Throws what loading the judge would throw, from configs and headers alone. */
export function inspectJudge(
  engine: Pick<Engine, 'inspectModel'>,
  spec: JudgeSpec,
): InspectedJudge {
  checkHead(spec);
  if (spec.kind === 'image_reward') {
    const folder = readImageRewardFolder(spec.model, spec);
    return {
      kind: 'ImageReward',
      parameters: engine.inspectModel('image_reward', folder.source).parameters,
      embeddingWidth: 0,
      textTokens: 35,
      warnings: [],
    };
  }
  const folder = readClipFolder(spec.model, spec);
  const parameters = engine.inspectModel('clip', folder.source).parameters;
  if (spec.head !== undefined) {
    engine.inspectModel('aesthetic', aestheticSource(spec.head));
    const { width } = aestheticShape(spec.head);
    if (width !== folder.embeddingWidth)
      throw invalid(
        spec.head,
        `expected a head on embeddings of width ${folder.embeddingWidth} (those of ` +
          `${spec.model}), got one of width ${width}`,
      );
  }
  return {
    kind: 'CLIPModel',
    parameters,
    embeddingWidth: folder.embeddingWidth,
    textTokens: folder.textTokens,
    warnings: folder.warnings,
  };
}

/** A judge as messages name it; empty fields mean "not given". */
export interface JudgeNames {
  kind: string;
  clipPath: string;
  headPath: string;
  tokenizerPath: string;
  fallbackTokenizerPath: string;
  preprocess: string;
  scale: number;
  variant: string;
}

/** A judge's spec from names as people write them; INVALID_ARGUMENT names the wrong one. */
export function judgeSpec(names: JudgeNames, where: string): JudgeSpec {
  const { kind, preprocess } = names;
  if (!isJudgeKind(kind))
    throw invalid(
      `${where}.kind`,
      `expected ${judgeKinds.join(', ')}, got ${JSON.stringify(kind)}`,
    );
  if (preprocess !== '' && !isPreprocessMethod(preprocess))
    throw invalid(
      `${where}.preprocess`,
      `expected ${preprocessMethods.join(', ')}, got ${JSON.stringify(preprocess)}`,
    );
  const given = (text: string): string | undefined => (text === '' ? undefined : text);
  return {
    kind,
    model: names.clipPath,
    head: given(names.headPath),
    tokenizer: given(names.tokenizerPath),
    fallback: given(names.fallbackTokenizerPath),
    preprocess: preprocess === '' ? undefined : preprocess,
    scale: names.scale === 0 ? undefined : names.scale,
    variant: given(names.variant),
  };
}
