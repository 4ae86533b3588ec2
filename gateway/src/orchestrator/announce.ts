/** Publishes a run's news on the events stream. Facts that may be told twice carry a message id. */
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  EventSchema,
  ModelEvaluatedSchema,
  RunChangedSchema,
  StageChangedSchema,
  TrainStepDoneSchema,
  WarningSchema,
  type Event,
} from '@spindle/proto';
import type { Bus } from '@spindle/mesh';
import type { Announcement } from '../domain/work.js';
import type { RunRecord } from './record.js';
import { fromMetrics, fromSummary } from './wire.js';

export async function announce(
  bus: Bus,
  record: RunRecord,
  announcements: Announcement[],
): Promise<void> {
  for (const news of announcements) {
    const event = create(EventSchema, {
      runId: record.runId,
      at: timestampFromMs(record.state.updatedAt),
      fact: factOf(news),
    });
    await bus.publishEvent(event, messageId(record.runId, news));
  }
}

function factOf(news: Announcement): Event['fact'] {
  switch (news.type) {
    case 'run-changed':
      return {
        case: 'runChanged',
        value: create(RunChangedSchema, { status: news.status, reason: news.reason }),
      };
    case 'stage-changed':
      return {
        case: 'stageChanged',
        value: create(StageChangedSchema, {
          stage: news.stage,
          state: news.state,
          done: news.done,
          total: news.total,
        }),
      };
    case 'train-step':
      return {
        case: 'trainStep',
        value: create(TrainStepDoneSchema, {
          model: news.model,
          steps: news.steps,
          step: fromMetrics(news.metrics),
        }),
      };
    case 'model-evaluated':
      return {
        case: 'modelEvaluated',
        value: create(ModelEvaluatedSchema, { statistics: fromSummary(news.summary) }),
      };
    case 'warning':
      return { case: 'warning', value: create(WarningSchema, { message: news.message }) };
  }
}

function messageId(runId: string, news: Announcement): string | undefined {
  return news.type === 'train-step'
    ? `${runId}/train-${news.model}/step-${news.metrics.step}`
    : undefined;
}
