/** A TrainRequest in the words of the domain, and the models that it names. */
import { createHash } from 'node:crypto';
import { SpindleError } from '@spindle/kit';
import {
  LearningRateSchedule,
  Objective,
  OnDivergence,
  type TrainRequest,
  type UnetRef,
} from '@spindle/proto';
import {
  checkSettings,
  fingerprint,
  opponentImages,
  type Objective as ObjectiveName,
  type Schedule,
  type TrainingSettings,
} from './domain/settings.js';

const objectives: Readonly<Partial<Record<Objective, ObjectiveName>>> = {
  [Objective.SPIN_LOGISTIC]: 'spin_logistic',
  [Objective.SPIN_HINGE]: 'spin_hinge',
  [Objective.SFT]: 'sft',
  [Objective.SPIN_IPO]: 'spin_ipo',
  [Objective.DPO]: 'dpo',
};
const schedules: Readonly<Record<LearningRateSchedule, Schedule>> = {
  [LearningRateSchedule.UNSPECIFIED]: 'constant',
  [LearningRateSchedule.CONSTANT]: 'constant',
  [LearningRateSchedule.LINEAR]: 'linear',
  [LearningRateSchedule.COSINE]: 'cosine',
};

const actions: Readonly<Record<OnDivergence, TrainingSettings['onDivergence']>> = {
  [OnDivergence.UNSPECIFIED]: 'warn',
  [OnDivergence.WARN]: 'warn',
  [OnDivergence.STOP]: 'stop',
  [OnDivergence.ROLLBACK]: 'rollback',
};

export function readSettings(request: TrainRequest): TrainingSettings {
  const objective = objectives[request.objective];
  if (objective === undefined)
    throw invalid(
      'objective: expected spin_logistic, spin_hinge, spin_ipo, dpo or sft, got nothing',
    );
  if (request.settings === undefined)
    throw invalid('settings: expected training settings, got nothing');
  if (request.init === undefined) throw invalid('init: expected a U-Net, got nothing');
  if (request.pipelinePath === '') throw invalid('pipeline_path: expected a folder, got nothing');
  if (request.modelName === '') throw invalid('model_name: expected a name, got nothing');
  if (request.encodedShards.length === 0)
    throw invalid('encoded_shards: expected at least one, got none');
  if (objective !== 'sft' && request.opponent === undefined)
    throw invalid('opponent: expected a U-Net, got nothing');
  if (opponentImages(objective) === 'generated' && request.generatedShards.length === 0)
    throw invalid('generated_shards: expected at least one, got none');
  try {
    const { settings } = request;
    const { safeguard = null } = settings;
    const { rank, alpha, targets } = settings.lora ?? {};
    const lora =
      rank === undefined || alpha === undefined || targets === undefined
        ? null
        : { rank, alpha, targets };
    const onDivergence = actions[settings.onDivergence];
    return checkSettings({
      ...settings,
      safeguard,
      lora,
      onDivergence,
      objective,
      schedule: schedules[settings.schedule],
      iteration: request.iteration,
    });
  } catch (cause) {
    throw invalid((cause as Error).message, cause);
  }
}

/** What a checkpoint must have been made from to be resumed. */
export function fingerprintOf(
  request: TrainRequest,
  settings: TrainingSettings,
): Record<string, string> {
  const digests = (refs: readonly { digest: string }[]): string =>
    createHash('sha256')
      .update(refs.map((ref) => ref.digest).join('\n'))
      .digest('hex');
  return fingerprint(settings, {
    init: describe(request.init),
    opponent: describe(request.opponent),
    pipelinePath: request.pipelinePath,
    encodedShards: digests(request.encodedShards),
    generatedShards: digests(request.generatedShards),
    ...(request.previousShards.length > 0 && { previousShards: digests(request.previousShards) }),
  });
}

function describe(ref: UnetRef | undefined): string {
  if (ref === undefined) return 'none';
  const base = ref.adapter === undefined ? ref.path : `${ref.path} ${ref.adapter.digest}`;
  return ref.weights === undefined ? base : `${ref.config?.digest ?? ''} ${ref.weights.digest}`;
}

function invalid(message: string, cause?: unknown): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', message, { cause });
}
