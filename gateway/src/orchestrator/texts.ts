/** The held-out prompts of a run. Captions stay where they lie: workers read them themselves. */
import { parsePromptList } from '@spindle/data';
import { ensureError } from '@spindle/kit';
import { isLoss } from './loss.js';
import type { OrchestratorPorts } from './ports.js';
import { restoreTexts } from './restore-texts.js';
import type { RunRecord } from './record.js';
import { toRef } from './wire.js';

export interface RunTexts {
  prompts: string[];
  /** Of the prompts; empty texts without. */
  categories: string[];
  /** Names of their sets; empty for none. */
  sets: string[];
}

/** Why a run pauses that has run out of disk or memory. */
export function roomWanted(stage: string, reason: string): string {
  return `${stage}: ${reason} Free some, then resume the run.`;
}

/** Nothing in a run without evaluation. What is lost is made again. */
export async function loadTexts(
  ports: Pick<OrchestratorPorts, 'store' | 'files'>,
  record: RunRecord,
): Promise<RunTexts> {
  const { prompts } = record;
  const read = async (): Promise<string> =>
    prompts ? (await ports.store.get(toRef(prompts))).toString('utf8') : '[]';
  const json = await read().catch(async (thrown: unknown) => {
    if (!isLoss(ensureError(thrown))) throw thrown;
    await restoreTexts(ports, record);
    return read();
  });
  const stored = parsePromptList(json);
  return {
    prompts: stored.map(({ prompt }) => prompt),
    categories: stored.map(({ category }) => category),
    sets: stored.map(({ set = '' }) => set),
  };
}
