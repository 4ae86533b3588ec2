/** Images of the data set as files, framed as training sees them, for judges to compare with. */
import { describeRef, type ImageReader } from '@spindle/data';
import { SpindleError } from '@spindle/kit';
import type { ArtifactStore } from '@spindle/mesh';
import { encodePng } from '@spindle/models';
import type { ArtifactRef, PromptItem, SampleJob } from '@spindle/proto';
import { resolveTransform, viewOf } from './domain/transform.js';
import type { SamplerEngine } from './engine.js';
import { invalidIfThrows } from './invalid.js';
import type { Manifests } from './manifests.js';
import { prefetch } from './prefetch.js';

export interface RealImageDeps {
  store: ArtifactStore;
  engine: SamplerEngine;
  images: ImageReader;
  manifests: Manifests;
}

/** Images that are read and decoded at the same time. */
const together = 8;

/** One for every item, in their order; none unless the job asks for them. */
export async function realImages(
  job: SampleJob,
  items: readonly PromptItem[],
  { store, engine, images, manifests }: RealImageDeps,
  signal: AbortSignal,
): Promise<ArtifactRef[]> {
  if (job.real === undefined) return [];
  const transform = invalidIfThrows(() => resolveTransform(job.real));
  if (job.texts.case !== 'manifest')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `sample.real: expected rows of a manifest, got ${job.texts.case ?? 'nothing'}`,
    );
  const manifest = await manifests.get(job.texts.value);
  const rows = await manifest.rowsAt([...new Set(items.map(({ index }) => index))]);
  const refs = new Map(rows.map(({ index, image }) => [index, image]));
  const files: ArtifactRef[] = [];
  for await (const file of prefetch(items, together, async ({ index, height, width }) => {
    const ref = refs.get(index);
    if (ref === undefined)
      throw new SpindleError('INVALID_ARGUMENT', `sample.rows: no row is numbered ${index}`);
    const size = {
      height: height || (job.sampling?.height ?? 0),
      width: width || (job.sampling?.width ?? 0),
    };
    const framings = [{ filter: transform.filter, ...viewOf(transform, index, 0) }];
    const bytes = await images.read(ref, signal);
    const into = { sizes: [size], framings };
    const [framed] = await engine.readImage(bytes, describeRef(ref), into, signal);
    if (framed === undefined)
      throw new SpindleError('INTERNAL', `${describeRef(ref)}: expected a framed image, got none`);
    return store.put(await encodePng(framed), 'image/png');
  }))
    files.push(file);
  return files;
}
