/** Tells what has changed in a run: the listeners in this process, and the events stream. */
import { EventEmitter } from 'node:events';
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
import { ensureError } from '@spindle/kit';
import type { Bus } from '@spindle/mesh';
import { parseModel } from '../domain/model.js';
import { trainKey } from '../domain/plan.js';
import type { RunState } from '../domain/state.js';
import type { Announcement } from '../domain/work.js';
import type { RunRecord } from './record.js';
import { background, type RunContext } from './run-context.js';
import { fromSummary, toStep } from './wire.js';

/** With no server to tell, news beyond this is dropped; the state itself is never lost. */
const maxUnsent = 1_000;

export interface RunNews {
  record: RunRecord;
  announcements: Announcement[];
}

export class NewsFeed {
  /** "news" after every change. */
  readonly changes = new EventEmitter<{ news: [RunNews] }>();
  readonly #context: RunContext;
  /** Told to the stream in order, one after the other. */
  #sending: Promise<void> = Promise.resolve();
  #unsent = 0;

  constructor(context: RunContext) {
    this.#context = context;
    this.changes.setMaxListeners(0);
  }

  /** Resolves once the state is so; rejects when `signal` aborts. */
  until(isSo: (state: RunState) => boolean, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = ({ record }: Pick<RunNews, 'record'>): void => {
        if (isSo(record.state)) end(resolve);
      };
      const stop = (): void => end(() => reject(ensureError(signal.reason)));
      const end = (how: () => void): void => {
        this.changes.off('news', look);
        signal.removeEventListener('abort', stop);
        how();
      };
      this.changes.on('news', look);
      signal.addEventListener('abort', stop);
      if (signal.aborted) stop();
      else look({ record: this.#context.record() });
    });
  }

  tell(record: RunRecord, announcements: Announcement[]): void {
    if (announcements.length > 0 && this.#unsent < maxUnsent) {
      const { bus } = this.#context.ports;
      this.#unsent += 1;
      this.#sending = this.#sending
        .then(() => background(this.#context, publish(bus, record, announcements)))
        .finally(() => (this.#unsent -= 1));
    }
    this.changes.emit('news', { record, announcements });
  }
}

/** Facts that may be told twice carry a message id. */
async function publish(bus: Bus, record: RunRecord, announcements: Announcement[]): Promise<void> {
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
          step: toStep(news.metrics),
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
    ? `${trainKey(runId, parseModel(news.model))}/step-${news.metrics.step}`
    : undefined;
}
