/**
 * A run as it is stored: the state machine's state and everything that never changes after
 * creation.
 */
import { sealed, SpindleError, unsealed } from '@spindle/kit';
import type { RunConfig } from '../config/schema.js';
import { stagesOf } from '../domain/plan.js';
import { stateSchemaVersion, type RunState, type StoredBlob } from '../domain/state.js';
import { recordSchema } from './record-schema.js';

export interface RunRecord {
  schemaVersion: number;
  /** Grows with every change: of two copies the larger one is newer. */
  version: number;
  runId: string;
  config: RunConfig;
  /** Pixels per side of every image of the run. */
  resolution: number;
  /** JSON lines {file, text}: the training rows. */
  manifest: StoredBlob;
  /** JSON array of held-out prompts; null without evaluation. */
  prompts: StoredBlob | null;
  /**
   * Jobs and results of the run carry its time of creation, so that nothing of a deleted run of
   * this id is taken for its own. Absent in runs of older versions: theirs carry nothing.
   */
  stamped?: boolean;
  /** W3C trace context of the call that created the run. */
  trace: Record<string, string>;
  state: RunState;
}

/** What the run's jobs, trainings and results carry; 0 in runs of older versions. */
export function createdMs({ stamped = false, state }: RunRecord): bigint {
  return stamped ? BigInt(state.createdAt) : 0n;
}

export function serializeRecord(record: RunRecord): string {
  return sealed(JSON.stringify(record));
}

/** Throws where the text is damaged, of another version, or no whole record. */
export function parseRecord(text: string, where: string): RunRecord {
  const json = unsealed(text, where);
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new SpindleError(
      'DATA_LOSS',
      `${where}: expected a run record in JSON, got ${json.length} bytes that do not parse.`,
      { cause },
    );
  }
  const version =
    typeof value === 'object' && value !== null && 'schemaVersion' in value
      ? value.schemaVersion
      : undefined;
  if (version !== stateSchemaVersion) {
    throw new SpindleError(
      'FAILED_PRECONDITION',
      `${where}: schemaVersion: expected ${stateSchemaVersion}, got ${String(version)}; this ` +
        'run was made by another version of Spindle.',
    );
  }
  const { error } = recordSchema.safeParse(value);
  if (error) {
    const [issue] = error.issues;
    throw new SpindleError(
      'DATA_LOSS',
      `${where}: ${issue?.path.join('.') ?? 'record'}: ${issue?.message ?? 'expected a record'}.`,
    );
  }
  const record = value as RunRecord;
  for (const { name } of stagesOf(record.state.plan))
    if (!record.state.stages[name])
      throw new SpindleError(
        'DATA_LOSS',
        `${where}: state.stages: expected a stage "${name}", got none.`,
      );
  return record;
}
