/** The settings of one training: keys of the config as the fields of TrainSettings. */
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  enumValue,
  ObjectiveSchema,
  TrainSettingsSchema,
  type Objective,
  type TrainSettings,
} from '@spindle/proto';
import { averageApart, type DpoTraining } from '../config/resolve.js';
import type { RunConfig, Training } from '../config/schema.js';
import { precisionOf } from './wire.js';

type SettingsInit = Exclude<MessageInitShape<typeof TrainSettingsSchema>, TrainSettings>;

/** The objective of the iterations. */
export function spinObjective({ objective }: RunConfig): Objective {
  return enumValue(ObjectiveSchema, `spin_${objective.loss}`);
}

/** `train`, and what this training's objective has beside it. */
export function trainSettings(
  config: RunConfig,
  train: Training & Partial<Omit<DpoTraining, keyof Training>>,
  previousShare = 0,
): TrainSettings {
  const { lora } = train;
  return create(TrainSettingsSchema, {
    ...namesakes(train),
    ...(lora && { lora: { ...lora, alpha: lora.alpha ?? lora.rank } }),
    seed: BigInt(config.seed),
    precision: precisionOf(config.precision),
    emaApart: train.ema_decay > 0 && averageApart(config),
    autoBetaSlope: train.auto_beta ?? 0,
    previousShare,
  });
}

/** A key that is named as a field travels as that field, without a line for it here. */
function namesakes(train: Training): SettingsInit {
  const given = new Map<string, unknown>(Object.entries(train));
  const values = TrainSettingsSchema.fields.flatMap((field): [string, unknown][] => {
    const value = given.get(field.name);
    if (field.fieldKind === 'enum' && typeof value === 'string')
      return [[field.localName, enumValue(field.enum, value)]];
    return typeof value === 'number' || typeof value === 'boolean'
      ? [[field.localName, value]]
      : [];
  });
  return Object.fromEntries(values);
}
