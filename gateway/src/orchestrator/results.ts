/** Committed results: the truth about finished work. */
import { fromJsonString } from '@bufbuild/protobuf';
import {
  JobResultSchema,
  type EncodeResult,
  type JobResult,
  type SampleResult,
} from '@spindle/proto';
import { SpindleError } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';

export class ResultReader {
  readonly #store: ArtifactStore;

  constructor(store: ArtifactStore) {
    this.#store = store;
  }

  async get(key: string): Promise<JobResult | null> {
    const json = await this.#store.getResult(key);
    if (json === null) return null;
    try {
      return fromJsonString(JobResultSchema, json, { ignoreUnknownFields: true });
    } catch (cause) {
      throw new SpindleError(
        'DATA_LOSS',
        `result ${key}: expected a JobResult in JSON, got ${json.length} bytes that do not parse.`,
        {
          cause,
        },
      );
    }
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
