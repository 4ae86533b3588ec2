/** The held-out prompts of a run. Captions stay where they lie: workers read them themselves. */
import { parsePromptList } from '@spindle/data';
import type { ArtifactStore } from '@spindle/mesh';
import type { RunRecord } from './record.js';
import { toRef } from './wire.js';

export interface RunTexts {
  prompts: string[];
  /** Of the prompts; empty texts without. */
  categories: string[];
}

/** Why a run pauses that has run out of disk or memory. */
export function roomWanted(stage: string, reason: string): string {
  return `${stage}: ${reason} Free some, then resume the run.`;
}

/** Nothing in a run without evaluation. */
export async function loadTexts(store: ArtifactStore, record: RunRecord): Promise<RunTexts> {
  const stored = record.prompts
    ? parsePromptList((await store.get(toRef(record.prompts))).toString('utf8'))
    : [];
  return {
    prompts: stored.map(({ prompt }) => prompt),
    categories: stored.map(({ category }) => category),
  };
}
