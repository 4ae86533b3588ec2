/** What every rank of a training opens: the models, a session of the engine, and the data. */
import { create } from '@bufbuild/protobuf';
import { checkRunFiles, unchanged, unetSource, type ArtifactStore } from '@spindle/mesh';
import { pipelineFiles, unetFiles } from '@spindle/models';
import type {
  ModelSourceDto,
  NativePrecision,
  RankGroupDto,
  TrainerOptionsDto,
} from '@spindle/native';
import {
  enumName,
  LearningRateScheduleSchema,
  Objective,
  ObjectiveSchema,
  TimestepWeight,
  TimestepWeightSchema,
  UnetRefSchema,
  type TrainRequest,
} from '@spindle/proto';
import { Dataset } from './dataset.js';
import { opponentImages, type TrainingSettings } from './domain/settings.js';
import type { TrainerEngine, TrainingPipeline, TrainingSession } from './engine.js';
import { GeneratedShards } from './generated-shards.js';
import { IncomingImages } from './incoming-images.js';

interface Deps {
  store: ArtifactStore;
  engine: TrainerEngine;
}

export interface Models {
  init: ModelSourceDto;
  opponent: ModelSourceDto | null;
  pipeline: TrainingPipeline;
  /** Those that no digest names, and what they were before anything was loaded. */
  files: { paths: string[]; state: string };
}

interface DataOptions {
  request: TrainRequest;
  settings: TrainingSettings;
  pipeline: TrainingPipeline;
  precision: NativePrecision;
}

/** What a rank reads; `incoming` where samplers still draw. */
export interface TrainingData {
  dataset: Dataset;
  incoming: IncomingImages | null;
}

export interface SessionOptions {
  models: Models;
  settings: TrainingSettings;
  precision: NativePrecision;
  /** This process is one of several ranks; null: it trains alone. */
  group: RankGroupDto | null;
}

/** FAILED_PRECONDITION where a model's files are not those that the run began with. */
export async function readModels(
  request: TrainRequest,
  settings: TrainingSettings,
  { store, engine }: Deps,
): Promise<Models> {
  const readFolder = (path: string): ModelSourceDto => engine.unetSource(path);
  const init = await unetSource(request.init ?? create(UnetRefSchema), store, readFolder);
  const opponent =
    request.opponent === undefined || settings.objective === Objective.SFT
      ? null
      : await unetSource(request.opponent, store, readFolder);
  const pipeline = engine.describePipeline(request.pipelinePath);
  return { init, opponent, pipeline, files: await checkFiles(request, store) };
}

async function checkFiles(
  { runId, pipelinePath, init, opponent }: TrainRequest,
  store: ArtifactStore,
): Promise<Models['files']> {
  const folders = [init, opponent].flatMap((ref) => (ref?.path ? [ref.path] : []));
  const parts = [
    { part: `pipeline ${pipelinePath}`, files: pipelineFiles(pipelinePath) },
    ...[...new Set(folders)].map((path) => ({ part: `unet ${path}`, files: unetFiles(path) })),
  ];
  const states: string[] = [];
  for (const { part, files } of parts) states.push(await checkRunFiles(store, runId, part, files));
  return { paths: parts.flatMap(({ files }) => files), state: states.filter(Boolean).join('\n') };
}

/** Resolves once all ranks of the group are connected. */
export function openSession(
  { models, settings, precision, group }: SessionOptions,
  engine: TrainerEngine,
  signal: AbortSignal,
): Promise<TrainingSession> {
  const options = {
    ...trainerOptions(settings),
    schedulerConfig: models.pipeline.schedulerConfig,
    precision,
  };
  const { init, opponent, files } = models;
  return unchanged(files.paths, files.state, () =>
    engine.createSession(init, opponent, options, group, signal),
  );
}

/** The rows that a request names; `precision` is that of the text encoder of the empty prompt. */
export async function openDataset(
  { request, settings, pipeline, precision }: DataOptions,
  { store, engine }: Deps,
): Promise<TrainingData> {
  const { toCome } = request;
  const dataset = await Dataset.open(store, {
    encoded: request.encodedShards,
    generated: toCome === undefined ? request.generatedShards : [],
    isOpen: toCome !== undefined,
    leftOut: request.leftOut,
    previous: request.previousShards,
    previousShare: settings.previousShare,
    against: opponentImages(settings.objective),
    drawnAsRead: request.drawnAsRead,
    key: { seed: settings.seed, iteration: settings.iteration },
    scalingFactor: pipeline.scalingFactor,
    shiftFactor: pipeline.shiftFactor,
    samplePosterior: settings.samplePosterior,
    captionDropout: settings.captionDropout,
    emptyText:
      settings.captionDropout > 0
        ? await engine.emptyPrompt(request.pipelinePath, precision)
        : null,
  });
  if (toCome === undefined) return { dataset, incoming: null };
  const { copies, views, imagesPerShard: perShard } = toCome;
  const shards = new GeneratedShards(request, store);
  const options = { copies, views, perShard };
  return { dataset, incoming: new IncomingImages(shards, dataset, store, options) };
}

/** The settings as the engine takes them; those of the same name are passed on as they are. */
export function trainerOptions(
  settings: TrainingSettings,
): Omit<TrainerOptionsDto, 'schedulerConfig' | 'precision'> {
  // The loss of Diffusion-DPO is the logistic one; only its pairs are others.
  const loss = settings.objective === Objective.DPO ? Objective.SPIN_LOGISTIC : settings.objective;
  return {
    ...settings,
    objective: enumName(ObjectiveSchema, loss),
    schedule: enumName(LearningRateScheduleSchema, settings.schedule),
    totalSteps: settings.steps,
    timestepsPerPair: settings.timestepsPerPair || 1,
    timestepWeight: enumName(
      TimestepWeightSchema,
      settings.timestepWeight || TimestepWeight.CONSTANT,
    ),
    safeguard: settings.safeguard ?? null,
    lora: settings.lora ?? null,
  };
}
