/** What a run has put into its folder for people, made whole again before the report is written. */
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isCode, writeFileAtomic } from '@spindle/kit';
import { modelName } from '../domain/model.js';
import { modelsOf } from '../domain/plan.js';
import { stageOf, type StoredBlob } from '../domain/state.js';
import { averageFolder, exportUnet, pointBest, unetFolder, weightsFile } from './export.js';
import type { RunContext } from './run-context.js';

/**
 * U-Nets that are missing are linked from the store again. After a resume of a run that had
 * succeeded, all of them are read, since somebody doubts them. Throws DATA_LOSS or NOT_FOUND for
 * weights that are lost.
 */
export async function restoreFolder({ ports, directory, record }: RunContext): Promise<void> {
  const { config, state } = record();
  const doubted = (stageOf(state, 'report').redone ?? []).length > 0;
  for (const model of modelsOf(state.plan)) {
    const { unet, average } = state.training[modelName(model)] ?? {};
    if (!unet) continue;
    const folder = join(directory, unetFolder(model));
    if (doubted || !(await isThere(folder, unet.weights)))
      await exportUnet(ports.store, unet, folder);
    const beside = averageFolder(folder);
    if (average && (doubted || !(await isThere(beside, average.weights))))
      await exportUnet(ports.store, average, beside);
  }
  await pointBest(directory, state.bestModel);
  const settings = join(directory, 'config.json');
  const known = await access(settings).then(
    () => true,
    () => false,
  );
  if (!known) await writeFileAtomic(settings, `${JSON.stringify(config, null, 2)}\n`);
}

async function isThere(folder: string, { bytes }: StoredBlob): Promise<boolean> {
  try {
    await access(join(folder, 'config.json'));
    return (await stat(join(folder, weightsFile))).size === bytes;
  } catch (error) {
    if (isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR')) return false;
    throw error;
  }
}
