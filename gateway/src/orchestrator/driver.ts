/**
 * Drives one run: every event goes through `dispatch`, one at a time: transition, write the state,
 * carry out the commands. The state is written before anything is done about it; after a crash the
 * commands follow from the state alone.
 */
import { EventEmitter } from 'node:events';
import { ensureError, extractContext, inSpan, linkedAbort, SpindleError } from '@spindle/kit';
import { jobKey } from '../domain/plan.js';
import { changesOnResume, differenceText } from '../config/changes.js';
import type { RunConfig } from '../config/schema.js';
import { planChange, replanned } from '../domain/replan.js';
import { isFinal } from '../domain/state.js';
import { transition, type RunEvent } from '../domain/machine.js';
import {
  announcementsBetween,
  commandsBetween,
  type Announcement,
  type Command,
} from '../domain/work.js';
import { evaluateModel, trainModel, writeReport, type TaskContext } from './tasks.js';
import { announce } from './announce.js';
import { buildJob, type RunTexts } from './jobs.js';
import { MetricsLog } from './metrics-log.js';
import { pointBest } from './export.js';
import { JobPublisher } from './publisher.js';
import type { OrchestratorPorts } from './ports.js';
import type { RunRecord } from './record.js';
import type { RunRecords } from './records.js';
import { Reconciler } from './reconciler.js';
import { ResultReader } from './results.js';
import { loadTexts, roomWanted } from './texts.js';

/**
 * Training steps alone write the state at most this often; they are in metrics.jsonl and the
 * trainer's checkpoint anyway.
 */
const stepSaveMs = 1_000;
const maxUnsent = 1_000;

/** An event without its time: the driver's clock stamps it when its turn comes. */
export type NewEvent = RunEvent extends infer E
  ? E extends RunEvent
    ? Omit<E, 'at'>
    : never
  : never;

export interface RunNews {
  record: RunRecord;
  announcements: Announcement[];
}

export class RunDriver {
  /** "news" with RunNews after every change. */
  readonly changes = new EventEmitter<{ news: [RunNews] }>();
  readonly metrics: MetricsLog;
  readonly #ports: OrchestratorPorts;
  readonly #records: RunRecords;
  readonly #results: ResultReader;
  readonly #stop = new AbortController();
  readonly #tasks = new Map<string, { abort: AbortController; done: Promise<void> }>();
  readonly #publisher: JobPublisher;
  readonly #reconciler: Reconciler;
  #record: RunRecord;
  #turn: Promise<unknown> = Promise.resolve();
  #texts: Promise<RunTexts> | null = null;
  /**
   * Commands are carried out only while this is set: not before the state has been compared with
   * what lies in the store.
   */
  #live: AbortController | null = null;
  #news: Promise<void> = Promise.resolve();
  #unsent = 0;
  #savedAt = 0;
  #dirty = false;
  #onFenced: (error: Error) => void;

  private constructor(
    record: RunRecord,
    metrics: MetricsLog,
    ports: OrchestratorPorts,
    records: RunRecords,
    onFenced: (error: Error) => void,
  ) {
    this.#record = record;
    this.#ports = ports;
    this.#records = records;
    this.#onFenced = onFenced;
    this.metrics = metrics;
    this.changes.setMaxListeners(0);
    this.#results = new ResultReader(ports.store);
    const { bus, store, logger } = ports;
    const trace = extractContext(record.trace);
    this.#publisher = new JobPublisher({
      // Each job continues the run's trace, also after a restart.
      publish: (job, round, signal) =>
        inSpan(
          'dispatch job',
          { 'spindle.job': job.key },
          () => bus.publishJob(job, round, { signal }),
          trace,
        ),
      logger,
      signal: this.#stop.signal,
      round: () => this.#record.state.round,
      build: async (stage, shard) =>
        buildJob(this.#record, stage, shard, await this.texts(), this.#results),
      failed: ({ stage, shard }, error) =>
        void this.#report(
          this.dispatch({ type: 'job-dead', stage, shard, reason: error.message, attempts: 0 }),
        ),
    });
    this.#reconciler = new Reconciler({
      bus,
      store,
      results: this.#results,
      logger,
      publishing: () => this.#publisher.busy,
      record: () => this.#record,
      dispatch: (event) => this.dispatch(event),
    });
  }

  static async open(
    record: RunRecord,
    ports: OrchestratorPorts,
    records: RunRecords,
    onFenced: (error: Error) => void,
  ): Promise<RunDriver> {
    return new RunDriver(
      record,
      await MetricsLog.open(records.directory(record.runId), record.state.createdAt),
      ports,
      records,
      onFenced,
    );
  }

  get record(): RunRecord {
    return this.#record;
  }

  get directory(): string {
    return this.#records.directory(this.#record.runId);
  }

  texts(): Promise<RunTexts> {
    this.#texts ??= loadTexts(this.#ports.store, this.#record).catch((error: unknown) => {
      this.#texts = null;
      throw error;
    });
    return this.#texts;
  }

  /** Takes up a run where its state says it is; nothing happens for one that has ended. */
  async activate(): Promise<void> {
    if (this.#live || isFinal(this.#record.state.status)) return;
    const live = new AbortController();
    await this.#reconciler.scan();
    await this.dispatch({ type: 'adopted' });
    await this.#serial(async () => {
      this.#live = live;
      await this.#carryOut(commandsBetween(null, this.#record.state));
    });
    this.#reconciler.start(this.#ports.rescanMs, AbortSignal.any([live.signal, this.#stop.signal]));
  }

  dispatch(event: NewEvent): Promise<RunRecord> {
    return this.#serial(() => this.#apply({ ...event, at: Date.now() }));
  }

  /**
   * Takes on a changed config while the run stands still; what changed, in words. Refuses a change
   * that a run cannot take on.
   */
  reconfigure(config: RunConfig): Promise<string[]> {
    return this.#serial(async () => {
      const before = this.#record;
      const changes = changesOnResume(before.config, config).map(differenceText);
      if (changes.length === 0) return changes;
      const plan = planChange(before.state.plan, config);
      const state = replanned(
        before.state,
        plan,
        `resumed with changed settings: ${changes.join('; ')}`,
      );
      const record = { ...before, config, state, version: before.version + 1 };
      await this.#save(record);
      this.#record = record;
      this.#announce([]);
      return changes;
    });
  }

  async resume(): Promise<RunRecord> {
    const forgiven = await this.#reconciler.deadLetterCounts();
    const record = await this.dispatch({ type: 'resume', forgiven });
    await this.activate();
    return record;
  }

  /** Leaves the run as it is, for another process or a later start to take up. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#live = null;
    for (const { abort } of this.#tasks.values()) abort.abort();
    await Promise.allSettled([...this.#tasks.values()].map((task) => task.done));
    await this.#turn.catch(() => undefined);
    await this.metrics.flush();
  }

  #serial<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #apply(event: RunEvent): Promise<RunRecord> {
    if (this.#stop.signal.aborted) return this.#record;
    const before = this.#record;
    const state = transition(before.state, event);
    if (state === before.state) {
      if (this.#dirty && Date.now() - this.#savedAt >= stepSaveMs) await this.#save(this.#record);
      return before;
    }
    const record = { ...before, state, version: before.version + 1 };
    const commands = commandsBetween(before.state, state);
    const announcements = announcementsBetween(before.state, state);
    const onlyStep =
      commands.length === 0 && announcements.every((news) => news.type === 'train-step');
    if (onlyStep && event.type === 'train-step' && Date.now() - this.#savedAt < stepSaveMs)
      this.#dirty = true;
    else await this.#save(record);
    this.#record = record;
    if (before.state.bestModel !== state.bestModel)
      await pointBest(this.directory, state.bestModel).catch(() => undefined);
    if (this.#live) await this.#carryOut(commands);
    if (event.type === 'train-rolled-back') this.metrics.rewind(event.model, event.step);
    this.#announce(announcements);
    if (isFinal(state.status)) {
      this.#live?.abort();
      this.#live = null;
    }
    return record;
  }

  async #save(record: RunRecord): Promise<void> {
    try {
      await this.#records.save(record);
    } catch (thrown) {
      const error = ensureError(thrown);
      if (error.code === 'ABORTED') {
        this.#stop.abort();
        this.#onFenced(error);
      }
      throw error;
    }
    this.#savedAt = Date.now();
    this.#dirty = false;
  }

  #announce(announcements: Announcement[]): void {
    const record = this.#record;
    for (const news of announcements)
      if (news.type === 'train-step') this.metrics.add(news.model, news.metrics);
    // With no server to tell, old news is dropped; the state itself is never lost.
    if (announcements.length > 0 && this.#unsent < maxUnsent) {
      this.#unsent += 1;
      this.#news = this.#news
        .then(() => this.#report(announce(this.#ports.bus, record, announcements)))
        .finally(() => (this.#unsent -= 1));
    }
    this.changes.emit('news', { record, announcements });
  }

  async #carryOut(commands: Command[]): Promise<void> {
    for (const command of commands) {
      switch (command.type) {
        case 'purge':
          this.#publisher.clear();
          // Workers that already hold a job finish it; its result is kept and counts when the run
          // is resumed.
          await this.#ports.bus
            .purgeJobs(this.#record.runId)
            .catch((error: unknown) =>
              this.#ports.logger.warn({ err: error }, 'the queue could not be purged'),
            );
          break;
        case 'publish':
          this.#publisher.add(command.stage, command.shards);
          break;
        case 'train':
          this.#launch(`train-${command.model}`, (context) => trainModel(context, command.model));
          break;
        case 'stop-training':
          this.#tasks.get(`train-${command.model}`)?.abort.abort();
          break;
        case 'evaluate':
          this.#launch(`evaluate-${command.model}`, (context) =>
            evaluateModel(context, command.model),
          );
          break;
        case 'report':
          this.#launch('report', writeReport);
          break;
      }
    }
    if (this.#record.state.status !== 'running')
      for (const { abort } of this.#tasks.values()) abort.abort();
  }

  /** Runs beside the event loop; a task of the same name that is still stopping goes first. */
  #launch(name: string, task: (context: TaskContext) => Promise<void>): void {
    const abort = new AbortController();
    const previous = this.#tasks.get(name)?.done;
    const linked = linkedAbort(abort.signal, this.#stop.signal);
    const run = async (): Promise<void> => {
      await previous;
      if (linked.signal.aborted) return;
      const context: TaskContext = {
        ports: this.#ports,
        signal: linked.signal,
        record: () => this.#record,
        directory: this.directory,
        results: this.#results,
        texts: () => this.texts(),
        curves: () => this.metrics.curves(),
        tensorboard: this.metrics.tensorboard,
        dispatch: (event) => this.dispatch(event),
      };
      await inSpan(
        name,
        { 'spindle.run': this.#record.runId },
        () => task(context),
        extractContext(this.#record.trace),
      );
    };
    const done = run()
      .catch((thrown: unknown) => this.#taskFailed(name, thrown, linked.signal))
      .finally(() => {
        linked.cleanup();
        if (this.#tasks.get(name)?.abort === abort) this.#tasks.delete(name);
      });
    this.#tasks.set(name, { abort, done });
  }

  async #taskFailed(stage: string, thrown: unknown, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const error = ensureError(thrown);
    this.#ports.logger.error({ err: error, run: this.#record.runId }, `${stage} failed`);
    // A full disk is for a person to mend; nothing of the run is wrong.
    const event: NewEvent =
      error.code === 'RESOURCE_EXHAUSTED'
        ? { type: 'pause', reason: roomWanted(stage, error.message) }
        : { type: 'failed', stage, reason: `${stage}: ${error.message}` };
    await this.#report(this.dispatch(event));
  }

  /** For work that nobody waits for. */
  async #report(work: Promise<unknown>): Promise<void> {
    await work.catch((error: unknown) => {
      if (!this.#stop.signal.aborted)
        this.#ports.logger.warn({ err: error, run: this.#record.runId }, 'background work failed');
    });
  }

  /** A readable file of one evaluation image; NOT_FOUND until it is drawn. */
  async evaluationImage(model: string, index: number): Promise<string> {
    const { plan, stages } = this.#record.state;
    const stage = `eval-sample-${model}`;
    const shard = Math.floor(index / plan.sampleShardSize);
    if (!stages[stage]?.done.includes(shard))
      throw new SpindleError('NOT_FOUND', `image ${index} of ${model} is not drawn yet.`);
    const { images } = await this.#results.sample(jobKey(this.#record.runId, stage, shard));
    const image = images[index - shard * plan.sampleShardSize];
    if (!image)
      throw new SpindleError(
        'DATA_LOSS',
        `result of ${stage} shard ${shard}: expected image ${index}, got none.`,
      );
    return this.#ports.store.localPath(image);
  }
}
