/** Encode and sample jobs: what this worker does with them. */
import type { ImageReader } from '@spindle/data';
import { SpindleError } from '@spindle/kit';
import type { ArtifactStore } from '@spindle/mesh';
import type { Job, JobResult } from '@spindle/proto';
import { encode } from './encode.js';
import type { EncodeCache } from './encode-cache.js';
import type { SamplerEngine } from './engine.js';
import type { Manifests } from './manifests.js';
import type { Models } from './models.js';
import type { RowCache } from './row-cache.js';
import { sample } from './sample.js';

export interface SamplerDeps {
  store: ArtifactStore;
  engine: SamplerEngine;
  models: Models;
  images: ImageReader;
  manifests: Manifests;
  cache: EncodeCache;
  rows: RowCache;
}

/** The result of one job; its blobs are in the store when it returns. */
export async function perform(
  { key, runId, work }: Job,
  deps: SamplerDeps,
  signal: AbortSignal,
): Promise<JobResult['result']> {
  switch (work.case) {
    case 'encode':
      return { case: 'encode', value: await encode(work.value, runId, deps, signal) };
    case 'sample':
      return { case: 'sample', value: await sample(work.value, runId, deps, signal) };
    case 'score':
    case undefined:
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}: work: expected encode or sample, got ${work.case ?? 'nothing'}`,
      );
  }
}
