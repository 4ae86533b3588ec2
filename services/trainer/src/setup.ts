/** What every rank of a training opens: models, a session of the engine, the data. */
import { create } from '@bufbuild/protobuf';
import { unetSource, type ArtifactStore } from '@spindle/mesh';
import type { ModelSourceDto, NativePrecision, RankGroupDto } from '@spindle/native';
import { UnetRefSchema, type TrainRequest } from '@spindle/proto';
import { Dataset } from './dataset.js';
import { opponentImages, type TrainingSettings } from './domain/settings.js';
import type { TrainerEngine, TrainingPipeline, TrainingSession } from './engine.js';

interface Deps {
  store: ArtifactStore;
  engine: TrainerEngine;
}

export interface Models {
  init: ModelSourceDto;
  opponent: ModelSourceDto | null;
  pipeline: TrainingPipeline;
}

export async function readModels(
  request: TrainRequest,
  settings: TrainingSettings,
  { store, engine }: Deps,
): Promise<Models> {
  const readFolder = (path: string): ModelSourceDto => engine.unetSource(path);
  const init = await unetSource(request.init ?? create(UnetRefSchema), store, readFolder);
  const opponent =
    request.opponent === undefined || settings.objective === 'sft'
      ? null
      : await unetSource(request.opponent, store, readFolder);
  return { init, opponent, pipeline: engine.describePipeline(request.pipelinePath) };
}

/** `group` makes it a rank; resolves once all ranks are connected. */
export function openSession(
  models: Models,
  settings: TrainingSettings,
  precision: NativePrecision,
  engine: TrainerEngine,
  group: RankGroupDto | null,
  signal: AbortSignal,
): Promise<TrainingSession> {
  const options = {
    ...engineOptions(settings),
    schedulerConfig: models.pipeline.schedulerConfig,
    precision,
  };
  return engine.createSession(models.init, models.opponent, options, group, signal);
}

export async function openDataset(
  request: TrainRequest,
  settings: TrainingSettings,
  pipeline: TrainingPipeline,
  precision: NativePrecision,
  { store, engine }: Deps,
): Promise<Dataset> {
  return Dataset.open(store, {
    encoded: request.encodedShards,
    generated: request.generatedShards,
    previous: request.previousShards,
    previousShare: settings.previousShare,
    against: opponentImages(settings.objective),
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
}

function engineOptions({ objective, ...settings }: TrainingSettings) {
  const {
    schedule,
    beta,
    safeguard,
    minSnrGamma,
    learningRate,
    warmupSteps,
    steps: totalSteps,
  } = settings;
  const {
    adamBeta1,
    adamBeta2,
    adamEpsilon,
    weightDecay,
    maxGradNorm,
    emaDecay,
    activationCheckpointing,
    lora,
    seed,
    iteration,
  } = settings;
  return {
    // Diffusion-DPO is the logistic loss on other pairs.
    objective: objective === 'dpo' ? 'spin_logistic' : objective,
    schedule,
    beta,
    safeguard,
    minSnrGamma,
    learningRate,
    warmupSteps,
    totalSteps,
    adamBeta1,
    adamBeta2,
    adamEpsilon,
    weightDecay,
    maxGradNorm,
    emaDecay,
    activationCheckpointing,
    lora,
    seed,
    iteration,
  };
}
