import { Manifest } from '@spindle/data';
import type { ArtifactStore } from '@spindle/mesh';
import type { RunTexts } from './jobs.js';
import type { RunRecord } from './record.js';
import { toRef } from './wire.js';

/** Why a run pauses that has run out of disk or memory. */
export function roomWanted(stage: string, reason: string): string {
  return `${stage}: ${reason} Free some, then resume the run.`;
}

export async function loadTexts(store: ArtifactStore, record: RunRecord): Promise<RunTexts> {
  const manifest = await Manifest.open(await store.localPath(toRef(record.manifest)));
  const captions = async (start: number, count: number): Promise<string[]> =>
    (await manifest.rows(start, count)).map((row) => row.text);
  const stored = record.prompts
    ? (JSON.parse((await store.get(toRef(record.prompts))).toString('utf8')) as (
        | string
        | { prompt: string; category: string }
      )[])
    : [];
  return {
    captions,
    prompts: stored.map((entry) => (typeof entry === 'string' ? entry : entry.prompt)),
    categories: stored.map((entry) => (typeof entry === 'string' ? '' : entry.category)),
  };
}
