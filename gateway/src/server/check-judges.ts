/** A run's judges, before it begins: the scorer says what they are. */
import { create } from '@bufbuild/protobuf';
import {
  InspectJudgeRequestSchema,
  type InspectJudgeRequest,
  type InspectJudgeResponse,
} from '@spindle/proto';
import { SpindleError } from '@spindle/kit';
import type { RunConfig } from '../config/schema.js';
import { metricSpecs } from '../orchestrator/jobs.js';
import type { ScorerPort } from '../orchestrator/ports.js';
import { inspecting } from './inspecting.js';

/**
 * Throws INVALID_ARGUMENT, naming the config's key, for a judge that cannot judge. Returns what
 * judges' files leave open, each once.
 */
export async function checkJudges(
  config: RunConfig,
  scorer: ScorerPort,
  signal: AbortSignal,
): Promise<string[]> {
  const warnings = new Set<string>();
  const inspect = (key: string, path: string, part: InspectJudgeRequest['part']) => {
    const request = create(InspectJudgeRequestSchema, { part });
    return inspecting(key, path, (options) => scorer.inspectJudge(request, options), signal);
  };
  const metrics = config.evaluation?.metrics ?? [];
  for (const [i, judge] of metricSpecs(config).entries()) {
    const key = `evaluation.metrics.${i}`;
    const model = await inspect(`${key}.model`, judge.clipPath, { case: 'judge', value: judge });
    const expected = judge.kind === 'image_reward' ? 'ImageReward' : 'CLIPModel';
    if (model.kind !== expected)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}.model: ${judge.clipPath}: expected a model of kind ${expected}, got ${model.kind}.`,
      );
    for (const warning of model.warnings) warnings.add(`judge: ${warning}`);
    // The head has a key of its own to be named by.
    const path = metrics[i]?.head;
    if (path === undefined) continue;
    const head = await inspect(`${key}.head`, path, { case: 'headPath', value: path });
    checkHead(`${key}.head: ${path}`, head, { model, path: judge.clipPath });
  }
  return [...warnings];
}

function checkHead(
  where: string,
  head: InspectJudgeResponse,
  on: { model: InspectJudgeResponse; path: string },
): void {
  if (head.kind !== 'AestheticHead')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: expected an AestheticHead, got ${head.kind}.`,
    );
  if (head.embeddingWidth !== on.model.embeddingWidth)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: expected a head on embeddings of width ${on.model.embeddingWidth} (those of ` +
        `${on.path}), got one of width ${head.embeddingWidth}.`,
    );
}
