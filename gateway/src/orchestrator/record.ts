/**
 * A run as it is stored: the state machine's state and everything that never changes after
 * creation.
 */
import { SpindleError } from '@spindle/kit';
import type { RunConfig } from '../config/schema.js';
import { stateSchemaVersion, type RunState, type StoredBlob } from '../domain/state.js';

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
  /** W3C trace context of the call that created the run. */
  trace: Record<string, string>;
  state: RunState;
}

export function serializeRecord(record: RunRecord): string {
  return JSON.stringify(record);
}

export function parseRecord(json: string, where: string): RunRecord {
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
      `${where}: schemaVersion: expected ${stateSchemaVersion}, got ${String(version)}; this run was made by another version of Spindle.`,
    );
  }
  return value as RunRecord;
}
