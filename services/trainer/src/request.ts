/** A TrainRequest: its settings, checked, and the fingerprint that its checkpoints carry. */
import { createHash } from 'node:crypto';
import { toJsonString } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import {
  LeftOutImagesSchema,
  Objective,
  type ShardsToCome,
  type TrainRequest,
  type UnetRef,
} from '@spindle/proto';
import {
  checkSettings,
  fingerprint,
  opponentImages,
  type TrainingSettings,
} from './domain/settings.js';
import { digestOf } from './generated-shards.js';

export function readSettings(request: TrainRequest): TrainingSettings {
  const { objective, iteration, firstStep, lastStep, settings } = request;
  if (objective === Objective.UNSPECIFIED) {
    throw invalid(
      'objective: expected spin_logistic, spin_hinge, spin_ipo, dpo or sft, got nothing',
    );
  }
  if (settings === undefined) throw invalid('settings: expected training settings, got nothing');
  if (request.init === undefined) throw invalid('init: expected a U-Net, got nothing');
  if (request.pipelinePath === '') throw invalid('pipeline_path: expected a folder, got nothing');
  if (request.modelName === '') throw invalid('model_name: expected a name, got nothing');
  if (request.encodedShards.length === 0) {
    throw invalid('encoded_shards: expected at least one, got none');
  }
  if (objective !== Objective.SFT && request.opponent === undefined) {
    throw invalid('opponent: expected a U-Net, got nothing');
  }
  if (firstStep > 0 !== (request.continued?.file !== undefined)) {
    throw invalid(
      'continued: expected what the steps before first_step left, where there are such, ' +
        `got first_step ${firstStep} ${request.continued ? 'with' : 'without'} it`,
    );
  }
  const { leftOut, generatedShards, toCome } = request;
  const shards = generatedShards.length + (toCome?.keys.length ?? 0);
  if (opponentImages(objective) === 'generated' && shards === 0) {
    throw invalid('generated_shards: expected at least one, got none');
  }
  if (toCome !== undefined) checkToCome(request, toCome);
  if (leftOut.length > 0 && leftOut.length !== generatedShards.length) {
    throw invalid(
      `left_out: expected one for each of ${generatedShards.length} generated_shards or none, ` +
        `got ${leftOut.length}`,
    );
  }
  try {
    return checkSettings({ ...settings, objective, iteration, firstStep, lastStep });
  } catch (cause) {
    throw invalid((cause as Error).message, cause);
  }
}

/** Settings, models and data, in words. A checkpoint with another fingerprint is not resumed. */
export function fingerprintOf(
  request: TrainRequest,
  settings: TrainingSettings,
): Record<string, string> {
  return fingerprint(settings, {
    init: describe(request.init),
    opponent: describe(request.opponent),
    pipelinePath: request.pipelinePath,
    encodedShards: digestOf(request.encodedShards),
    generatedShards: digestOf(request.generatedShards),
    ...(request.leftOut.length > 0 && {
      leftOut: createHash('sha256')
        .update(request.leftOut.map((one) => toJsonString(LeftOutImagesSchema, one)).join('\n'))
        .digest('hex'),
    }),
    ...(request.continued?.file !== undefined && { continued: request.continued.file.digest }),
    ...(request.previousShards.length > 0 && { previousShards: digestOf(request.previousShards) }),
  });
}

function checkToCome(
  { objective, drawnAsRead, leftOut }: TrainRequest,
  { imagesPerShard, copies, views }: ShardsToCome,
): void {
  if (Math.min(imagesPerShard, copies, views) === 0) {
    throw invalid(
      'to_come: expected images_per_shard, copies and views of at least 1, ' +
        `got ${imagesPerShard}, ${copies} and ${views}`,
    );
  }
  if (!drawnAsRead || leftOut.length > 0 || opponentImages(objective) !== 'generated') {
    throw invalid(
      'to_come: expected images of an opponent that are drawn_as_read, with none left_out, ' +
        'got others',
    );
  }
}

function describe(ref: UnetRef | undefined): string {
  if (ref === undefined) return 'none';
  const base = ref.adapter === undefined ? ref.path : `${ref.path} ${ref.adapter.digest}`;
  return ref.weights === undefined ? base : `${ref.config?.digest ?? ''} ${ref.weights.digest}`;
}

function invalid(message: string, cause?: unknown): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', message, { cause });
}
