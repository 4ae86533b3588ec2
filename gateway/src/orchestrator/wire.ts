/** Between the domain's plain data and protobuf messages. */
import { create } from '@bufbuild/protobuf';
import {
  ArtifactRefSchema,
  enumValue,
  MetricStatisticsSchema,
  ModelStatisticsSchema,
  PrecisionSchema,
  stepNumbers,
  TrainStepSchema,
  type ArtifactRef,
  type ModelStatistics,
  type Precision,
  type StepNumbers,
  type TrainState,
  type TrainStep,
  type UnetRef,
} from '@spindle/proto';
import { SpindleError } from '@spindle/kit';
import type { RunConfig } from '../config/schema.js';
import type { ModelSummary, StoredBlob, StoredTrainState, StoredUnet } from '../domain/state.js';

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
      `${where}: expected the trained U-Net's config and weights in the artifact store, got ` +
        `${unet ? 'only a part' : 'nothing'}.`,
    );
  }
  return {
    config: toBlob(unet.config),
    weights: toBlob(unet.weights),
    ...(adapter && { adapter: toBlob(adapter) }),
  };
}

export function toStoredState(
  { file, rollbacks, learningRateScale }: TrainState,
  where: string,
): StoredTrainState {
  if (file) return { file: toBlob(file), rollbacks, learningRateScale };
  throw new SpindleError(
    'INTERNAL',
    `${where}: expected the training's state in the artifact store, got nothing.`,
  );
}

export function precisionOf(precision: RunConfig['precision']): Precision {
  return enumValue(PrecisionSchema, precision);
}

/** Stored numbers that were not finite, or that an older version did not keep, are NaN. */
export function toStep(numbers: { [K in keyof StepNumbers]?: number | null }): TrainStep {
  const step = create(TrainStepSchema);
  for (const { key } of stepNumbers) step[key] = numbers[key] ?? Number.NaN;
  return step;
}

export function toSummary(model: ModelStatistics): ModelSummary {
  return {
    model: model.model,
    metrics: model.metrics.map(
      ({
        metric,
        mean,
        median,
        standardError,
        winRate,
        differenceLow,
        differenceHigh,
        ...more
      }) => ({
        metric,
        mean,
        median,
        standardError,
        winRate,
        differenceLow,
        differenceHigh,
        n: more.n,
        ...(more.select && { select: { mean: more.select.mean, n: more.select.n } }),
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
