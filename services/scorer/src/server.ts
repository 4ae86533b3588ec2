import { create } from '@bufbuild/protobuf';
import type { ServiceHandlers } from '@spindle/kit';
import { ScoreResponseSchema, type ScorerService } from '@spindle/proto';
import type { Scorer } from './score.js';

export function createHandlers(scorer: Scorer): ServiceHandlers<typeof ScorerService> {
  return {
    async score({ metrics, items }, { signal }) {
      return create(ScoreResponseSchema, { scores: await scorer.score(metrics, items, signal) });
    },
  };
}
