/** What a run has put into its folder for people, made whole again before the report is written. */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '@spindle/kit';
import { modelName } from '../domain/model.js';
import { modelsOf } from '../domain/plan.js';
import { averageFolder, exportUnet, pointBest, unetFolder } from './export.js';
import type { RunContext } from './run-context.js';

/**
 * Every U-Net goes into the folder once more, and is verified: of some there was no reader since
 * they were trained, and a run that ends with damaged weights would not know it. Throws DATA_LOSS
 * or NOT_FOUND for weights that are lost.
 */
export async function restoreFolder({ ports, directory, record }: RunContext): Promise<void> {
  const { config, state } = record();
  for (const model of modelsOf(state.plan)) {
    const { unet, average } = state.training[modelName(model)] ?? {};
    if (!unet) continue;
    const folder = join(directory, unetFolder(model));
    await exportUnet(ports.store, unet, folder);
    if (average) await exportUnet(ports.store, average, averageFolder(folder));
  }
  await pointBest(directory, state.bestModel);
  const settings = join(directory, 'config.json');
  const known = await access(settings).then(
    () => true,
    () => false,
  );
  if (!known) await writeFileAtomic(settings, `${JSON.stringify(config, null, 2)}\n`);
}
