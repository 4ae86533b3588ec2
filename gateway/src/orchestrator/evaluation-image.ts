import { SpindleError } from '@spindle/kit';
import { parseModel } from '../domain/model.js';
import { jobKey } from '../domain/plan.js';
import { stageName } from '../domain/stage.js';
import type { RunContext } from './run-context.js';

/** A readable file of one of a model's evaluation images; NOT_FOUND until it is drawn. */
export async function evaluationImage(
  { ports, results, record }: Pick<RunContext, 'ports' | 'results' | 'record'>,
  model: string,
  index: number,
): Promise<string> {
  const { runId, state } = record();
  const { sampleShardSize } = state.plan;
  const stage = stageName({ kind: 'eval-sample', model: parseModel(model) });
  const shard = Math.floor(index / sampleShardSize);
  if (!state.stages[stage]?.done.includes(shard))
    throw new SpindleError('NOT_FOUND', `image ${index} of ${model} is not drawn yet.`);
  const { images } = await results.sample(jobKey(runId, stage, shard));
  const image = images[index - shard * sampleShardSize];
  if (!image)
    throw new SpindleError(
      'DATA_LOSS',
      `result of ${stage} shard ${shard}: expected image ${index}, got none.`,
    );
  return ports.store.localPath(image);
}
