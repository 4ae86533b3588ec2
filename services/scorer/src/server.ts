/** The calls of the scorer; its jobs come from the queue. */
import { create } from '@bufbuild/protobuf';
import { SpindleError, type ServiceHandlers } from '@spindle/kit';
import {
  InspectJudgeResponseSchema,
  ScoreResponseSchema,
  type InspectJudgeRequest,
  type ScorerService,
} from '@spindle/proto';
import type { InspectedPart, ScorerEngine } from './engine.js';
import type { Scorer } from './score.js';

export interface ServerDeps {
  engine: ScorerEngine;
  scorer: Scorer;
}

export function createHandlers({
  engine,
  scorer,
}: ServerDeps): ServiceHandlers<typeof ScorerService> {
  return {
    async score({ metrics, items }, { signal }) {
      const scores = await scorer.score({ runId: '', specs: metrics, items }, signal);
      return create(ScoreResponseSchema, { scores });
    },
    async inspectJudge({ part }) {
      const { kind, embeddingWidth, textTokens, warnings } = inspect(engine, part);
      return create(InspectJudgeResponseSchema, {
        kind,
        embeddingWidth,
        textTokens,
        warnings: [...warnings],
      });
    },
  };
}

function inspect(engine: ScorerEngine, part: InspectJudgeRequest['part']): InspectedPart {
  const missing = (field: string, what: string): SpindleError =>
    new SpindleError('INVALID_ARGUMENT', `${field}: expected ${what}, got nothing`);
  switch (part.case) {
    case 'judge':
      if (part.value.clipPath === '')
        throw missing('judge.clip_path', "the model's folder or file");
      return engine.inspectJudge(part.value);
    case 'headPath':
      if (part.value === '') throw missing('head_path', "the head's folder or file");
      return engine.inspectHead(part.value);
    case undefined:
      throw missing('part', 'a judge or a head');
  }
}
