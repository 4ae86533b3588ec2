/** What a sample job draws: its rows with their texts, which are read where they lie. */
import { create } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import {
  PromptItemSchema,
  type ArtifactRef,
  type PromptItem,
  type SampleJob,
  type SampleRow,
} from '@spindle/proto';
import type { Manifests } from './manifests.js';

/** In the order of the job's rows. */
export async function itemsOf(job: SampleJob, manifests: Manifests): Promise<PromptItem[]> {
  const { rows, texts } = job;
  if (texts.case === undefined) {
    if (rows.length > 0) throw invalid('sample.texts: expected a manifest or prompts, got nothing');
    // A job of before rows.
    return job.items;
  }
  if (rows.length === 0) throw invalid('sample.rows: expected at least one, got none');
  switch (texts.case) {
    case 'manifest':
      return joined(rows, await captions(rows, texts.value, manifests));
    case 'prompts':
      return joined(rows, new Map((await manifests.prompts(texts.value)).entries()));
  }
}

/** By row. */
async function captions(
  rows: readonly SampleRow[],
  ref: ArtifactRef,
  manifests: Manifests,
): Promise<Map<number, string>> {
  const manifest = await manifests.get(ref);
  const read = await manifest.rowsAt(rows.map(({ index }) => index));
  return new Map(read.map(({ index, text }) => [index, text]));
}

function joined(rows: readonly SampleRow[], texts: ReadonlyMap<number, string>): PromptItem[] {
  return rows.map(({ index, seed, height, width }, n) => {
    const prompt = texts.get(index);
    if (prompt === undefined)
      throw invalid(`sample.rows[${n}].index: expected one of ${texts.size} texts, got ${index}`);
    return create(PromptItemSchema, { index, prompt, seed, height, width });
  });
}

function invalid(message: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', message);
}
