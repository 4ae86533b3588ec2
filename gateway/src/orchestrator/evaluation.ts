/** Statistics and reports, by the evaluator service. */
import { create } from '@bufbuild/protobuf';
import {
  EvaluationItemSchema,
  ModelEvaluationSchema,
  type ModelEvaluation,
  type PromptItem,
} from '@spindle/proto';
import { delay, ensureError, type Logger } from '@spindle/kit';
import { modelName } from '../domain/model.js';
import { jobKey, modelsOf, reportedPrompts } from '../domain/plan.js';
import { stageName } from '../domain/stage.js';
import { stageOf } from '../domain/state.js';
import { promptItems, stageNamed } from './jobs.js';
import type { RunRecord } from './record.js';
import type { RunTexts } from './texts.js';

/** Every model whose images are finished, base first; only shards that have everything count. */
export function modelEvaluations(record: RunRecord, texts: RunTexts): ModelEvaluation[] {
  const { plan } = record.state;
  if (plan.evaluationPrompts === 0) return [];
  const scored = plan.metrics.length > 0;
  const reported = reportedPrompts(plan);
  return modelsOf(plan).flatMap((model) => {
    const drawing = stageName({ kind: 'eval-sample', model });
    const judging = stageName({ kind: 'eval-score', model });
    const stage = stageNamed(record, drawing);
    const drawn = stageOf(record.state, drawing);
    const judged = scored ? stageOf(record.state, judging) : drawn;
    if (drawn.status !== 'done' || judged.status !== 'done') return [];
    const shards = drawn.done.filter((shard) => judged.done.includes(shard));
    const prompts: PromptItem[] = shards.flatMap((shard) =>
      promptItems(record, stage, shard, texts.prompts),
    );
    return create(ModelEvaluationSchema, {
      model: modelName(model),
      sampleKeys: shards.map((shard) => jobKey(record.runId, drawing, shard)),
      scoreKeys: scored ? shards.map((shard) => jobKey(record.runId, judging, shard)) : [],
      items: prompts.map((prompt) =>
        create(EvaluationItemSchema, {
          prompt,
          category: texts.categories[prompt.index] ?? '',
          set: texts.sets[prompt.index] ?? '',
          select: prompt.index >= reported,
        }),
      ),
    });
  });
}

/**
 * Repeats a call while its service cannot be reached; other failures get three tries. Undefined
 * when `signal` aborts.
 */
export async function persist<T>(
  call: () => Promise<T>,
  signal: AbortSignal,
  logger: Logger,
  what: string,
): Promise<T | undefined> {
  for (let failures = 0, wait = 250; !signal.aborted; wait = Math.min(wait * 2, 5_000)) {
    try {
      return await call();
    } catch (thrown) {
      if (signal.aborted) return undefined;
      const error = ensureError(thrown);
      if (!error.retryable || error.code === 'RESOURCE_EXHAUSTED') throw error;
      if (error.code !== 'UNAVAILABLE' && ++failures >= 3) throw error;
      logger.warn({ err: error }, `${what} failed; trying again`);
      await delay(wait, signal).catch(() => undefined);
    }
  }
  return undefined;
}
