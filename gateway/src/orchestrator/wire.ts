/** Between the domain's plain data and protobuf messages. */
import { create } from '@bufbuild/protobuf';
import {
  ArtifactRefSchema,
  LearningRateSchedule,
  MetricStatisticsSchema,
  ModelStatisticsSchema,
  Objective,
  Precision,
  TrainStepSchema,
  type ArtifactRef,
  type ModelStatistics,
  type TrainStep,
  type UnetRef,
} from '@spindle/proto';
import { SpindleError } from '@spindle/kit';
import type { RunConfig, TrainConfig } from '../config/schema.js';
import type { ModelSummary, StoredBlob, StoredUnet, TrainStepMetrics } from '../domain/state.js';

export function toRef(blob: StoredBlob): ArtifactRef {
  return create(ArtifactRefSchema, {
    digest: blob.digest,
    bytes: BigInt(blob.bytes),
    mediaType: blob.mediaType,
  });
}

export function toBlob(ref: ArtifactRef): StoredBlob {
  return { digest: ref.digest, bytes: Number(ref.bytes), mediaType: ref.mediaType };
}

export function toStoredUnet(
  unet: UnetRef | undefined,
  adapter: ArtifactRef | undefined,
  where: string,
): StoredUnet {
  if (!unet?.config || !unet.weights) {
    throw new SpindleError(
      'INTERNAL',
      `${where}: expected the trained U-Net's config and weights in the artifact store, got ${unet ? 'only a part' : 'nothing'}.`,
    );
  }
  return {
    config: toBlob(unet.config),
    weights: toBlob(unet.weights),
    ...(adapter && { adapter: toBlob(adapter) }),
  };
}

export function precisionOf(precision: RunConfig['precision']): Precision {
  return { auto: Precision.AUTO, float32: Precision.FLOAT32, bfloat16: Precision.BFLOAT16 }[
    precision
  ];
}

export function scheduleOf(schedule: TrainConfig['schedule']): LearningRateSchedule {
  return {
    constant: LearningRateSchedule.CONSTANT,
    linear: LearningRateSchedule.LINEAR,
    cosine: LearningRateSchedule.COSINE,
  }[schedule];
}

export function objectiveOf(loss: RunConfig['objective']['loss']): Objective {
  return {
    logistic: Objective.SPIN_LOGISTIC,
    hinge: Objective.SPIN_HINGE,
    ipo: Objective.SPIN_IPO,
  }[loss];
}

export function toMetrics(step: TrainStep): TrainStepMetrics {
  const {
    loss,
    errorReal,
    errorGenerated,
    opponentErrorReal,
    opponentErrorGenerated,
    implicitAccuracy,
    loserScale,
    gradNorm,
    learningRate,
    beta,
    seconds,
  } = step;
  return {
    step: step.step,
    loss,
    errorReal,
    errorGenerated,
    opponentErrorReal,
    opponentErrorGenerated,
    implicitAccuracy,
    loserScale,
    gradNorm,
    learningRate,
    beta,
    seconds,
  };
}

export function fromMetrics(metrics: TrainStepMetrics): TrainStep {
  return create(TrainStepSchema, { ...metrics });
}

export function toSummary(model: ModelStatistics): ModelSummary {
  return {
    model: model.model,
    metrics: model.metrics.map(
      ({ metric, mean, median, standardError, winRate, differenceLow, differenceHigh, n }) => ({
        metric,
        mean,
        median,
        standardError,
        winRate,
        differenceLow,
        differenceHigh,
        n,
      }),
    ),
  };
}

export function fromSummary(summary: ModelSummary): ModelStatistics {
  return create(ModelStatisticsSchema, {
    model: summary.model,
    metrics: summary.metrics.map((metric) => create(MetricStatisticsSchema, { ...metric })),
  });
}
