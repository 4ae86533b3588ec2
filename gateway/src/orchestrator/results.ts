/** Committed results: the truth about finished work. */
import type { EncodeResult, JobResult, SampleResult, ScoreResult } from '@spindle/proto';
import { SpindleError } from '@spindle/kit';
import { readJobResult, type ArtifactStore } from '@spindle/mesh';

export class ResultReader {
  readonly #store: ArtifactStore;
  readonly #createdMs: () => bigint;

  /** `createdMs` of the run whose results are read. */
  constructor(store: ArtifactStore, createdMs: () => bigint) {
    this.#store = store;
    this.#createdMs = createdMs;
  }

  /** Null for what is damaged, and for what a deleted run of this id has left. */
  async get(key: string): Promise<JobResult | null> {
    const result = await readJobResult(key, this.#store);
    return result?.runCreatedMs === this.#createdMs() ? result : null;
  }

  async encode(key: string): Promise<EncodeResult> {
    const result = await this.#required(key);
    if (result.result.case !== 'encode') throw mismatch(key, 'encode', result);
    return result.result.value;
  }

  async sample(key: string): Promise<SampleResult> {
    const result = await this.#required(key);
    if (result.result.case !== 'sample') throw mismatch(key, 'sample', result);
    return result.result.value;
  }

  async score(key: string): Promise<ScoreResult> {
    const result = await this.#required(key);
    if (result.result.case !== 'score') throw mismatch(key, 'score', result);
    return result.result.value;
  }

  async #required(key: string): Promise<JobResult> {
    const result = await this.get(key);
    if (!result)
      throw new SpindleError(
        'DATA_LOSS',
        `result ${key}: expected in the artifact store, got nothing.`,
      );
    return result;
  }
}

function mismatch(key: string, expected: string, result: JobResult): SpindleError {
  return new SpindleError(
    'DATA_LOSS',
    `result ${key}: expected a result of kind ${expected}, got ${result.result.case ?? 'none'}.`,
  );
}
