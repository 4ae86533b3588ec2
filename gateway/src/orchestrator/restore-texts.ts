/**
 * A run's training rows and held-out prompts, made again from the config's files where the stored
 * lists are damaged or gone. Digests say whether they are the same.
 */
import { SpindleError } from '@spindle/kit';
import type { ArtifactRef } from '@spindle/proto';
import { writePromptList } from '@spindle/data';
import { promptFiles } from '../config/prompt-files.js';
import type { StoredBlob } from '../domain/state.js';
import { dataSpec, readDataSet } from '../server/dataset.js';
import { readHeldOut, readPrompts } from '../server/held-out.js';
import type { OrchestratorPorts } from './ports.js';
import type { RunRecord } from './record.js';
import { isWholeBlob } from './loss.js';
import { toRef } from './wire.js';

export type TextsName = 'data' | 'evaluation.prompts';

/**
 * Those that were lost and are there again. FAILED_PRECONDITION, naming the file, where it says
 * something else today.
 */
export async function restoreTexts(
  { store, files }: Pick<OrchestratorPorts, 'store' | 'files'>,
  record: RunRecord,
): Promise<TextsName[]> {
  const { config, manifest, prompts } = record;
  const restored: TextsName[] = [];
  if (!(await isWholeBlob(store, toRef(manifest)))) {
    await using data = await readDataSet(
      dataSpec(config.data),
      { files, store },
      {
        limit: config.data.limit,
        // Only warnings depend on it, and the run has had its.
        textTokens: 0,
        pairs: config.baselines.dpo !== undefined,
        heldOut: [],
      },
    );
    const made = await store.putFile(data.manifest, 'application/jsonl', { move: true });
    expectSame(made, manifest, { key: 'data', path: config.data.path });
    restored.push('data');
  }
  if (prompts !== null && !(await isWholeBlob(store, toRef(prompts)))) {
    // A run of before prompts were set apart has them in their file's order.
    const { select } = record.state.plan;
    const held = select
      ? (await readHeldOut(config, files)).prompts
      : await readPrompts(config, files);
    const list = writePromptList(held);
    const made = await store.put(Buffer.from(list), 'application/json');
    const path = promptFiles(config.evaluation?.prompts ?? '')
      .map(({ file }) => file)
      .join(', ');
    expectSame(made, prompts, { key: 'evaluation.prompts', path });
    restored.push('evaluation.prompts');
  }
  return restored;
}

function expectSame(
  { digest }: ArtifactRef,
  expected: StoredBlob,
  { key, path }: { key: TextsName; path: string },
): void {
  if (digest === expected.digest) return;
  const what = key === 'data' ? 'list of training rows' : 'list of held-out prompts';
  throw new SpindleError(
    'FAILED_PRECONDITION',
    `${key}: the run's ${what} was lost, and ${path} gives another one today: expected ` +
      `${expected.digest}, got ${digest}; put the files back as they were when the run was ` +
      'created and resume it, or start a new run.',
  );
}
