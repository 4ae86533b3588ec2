/**
 * Drives one run: every event goes through `dispatch`, one at a time: transition, write the state,
 * carry out the commands. The state is written before anything is done about it; after a crash the
 * commands follow from the state alone.
 *
 * Who calls whom: downwards by calls, back up by `dispatch` alone (RunContext).
 *
 *   Orchestrator -> RunDriver -> Effects -> JobPublisher -> the queue
 *                     |             `-----> TaskRunner -> trainModel, evaluateModel, writeReport
 *                     |-> Reconciler -> events, results, dead letters, the queue's depth
 *                     |-> RecordWriter -> the bucket and run.json
 *                     `-> NewsFeed -> the events stream, the page
 */
import type { EventEmitter } from 'node:events';
import { changesOnResume, differenceText } from '../config/changes.js';
import type { RunConfig } from '../config/schema.js';
import { transition, type RunEvent } from '../domain/machine.js';
import { planChange, replanned } from '../domain/replan.js';
import { isFinal } from '../domain/state.js';
import { announcementsBetween, commandsBetween, type Announcement } from '../domain/work.js';
import { carryOut, effectsOf, type Effects } from './effects.js';
import { evaluationImage } from './evaluation-image.js';
import { pointBest } from './export.js';
import { MetricsLog } from './metrics-log.js';
import { NewsFeed, type RunNews } from './news-feed.js';
import type { OrchestratorPorts } from './ports.js';
import { JobPublisher } from './publisher.js';
import { Reconciler } from './reconciler.js';
import { createdMs, type RunRecord } from './record.js';
import { RecordWriter } from './record-writer.js';
import type { RunRecords } from './records.js';
import { ResultReader } from './results.js';
import type { NewEvent, RunContext } from './run-context.js';
import { restoreTexts } from './restore-texts.js';
import { TaskRunner } from './task-runner.js';
import { loadTexts, type RunTexts } from './texts.js';

export interface DriverOptions {
  onFenced: (error: Error) => void;
  /** As RunContext has it. */
  isNamed: (digest: string) => boolean;
}

/**
 * A driver is in one of three modes:
 *
 * - Idle (`#live` null, `#stop` not aborted). Entered by `open`, and when the run ends. Events are
 *   recorded, nothing is done about them: the state has not been compared with the store yet, or
 *   the run is over. Left by `activate` (also from `resume`), and by stopping.
 * - Live (`#live` set). Entered by `activate`, once results and dead letters have been taken in.
 *   Commands are carried out, and the reconciler follows the run. A paused run is live: it has no
 *   work, and may be resumed. Left when the run ends (`#live` is aborted), and by stopping. A run
 *   that has ended is never live.
 * - Stopped (`#stop` aborted). Entered by `stop`, and when another gateway has written the record
 *   (fenced). Events change nothing, tasks end where they are, nothing is written. There is no way
 *   back: who takes the run up again opens another driver.
 *
 * `#turn` is the end of the line of events: whatever changes `#record` or the mode to live waits
 * for its turn there, so that no two changes cross.
 */
export class RunDriver {
  readonly metrics: MetricsLog;
  readonly #context: RunContext;
  readonly #writer: RecordWriter;
  readonly #news: NewsFeed;
  readonly #tasks: TaskRunner;
  readonly #effects: Effects;
  readonly #reconciler: Reconciler;
  readonly #stop = new AbortController();
  #live: AbortController | null = null;
  #record: RunRecord;
  #turn: Promise<unknown> = Promise.resolve();
  #texts: Promise<RunTexts> | null = null;

  private constructor(
    record: RunRecord,
    ports: OrchestratorPorts,
    records: RunRecords,
    options: { metrics: MetricsLog } & DriverOptions,
  ) {
    this.#record = record;
    this.metrics = options.metrics;
    const context: RunContext = {
      ports,
      directory: records.directory(record.runId),
      results: new ResultReader(ports.store, () => createdMs(this.#record)),
      metrics: options.metrics,
      stop: this.#stop.signal,
      record: () => this.#record,
      texts: () => this.texts(),
      dispatch: (event) => this.dispatch(event),
      until: (isSo, signal) => this.#news.until(isSo, signal),
      isNamed: options.isNamed,
    };
    const publisher = new JobPublisher(context);
    this.#context = context;
    this.#tasks = new TaskRunner(context);
    this.#effects = effectsOf(context, { publisher, tasks: this.#tasks });
    this.#reconciler = new Reconciler(context, publisher);
    this.#news = new NewsFeed(context);
    this.#writer = new RecordWriter(records, (error) => {
      this.#stop.abort();
      options.onFenced(error);
    });
  }

  static async open(
    record: RunRecord,
    ports: OrchestratorPorts,
    records: RunRecords,
    options: DriverOptions,
  ): Promise<RunDriver> {
    const metrics = await MetricsLog.open(records.directory(record.runId), record.state.createdAt);
    return new RunDriver(record, ports, records, { metrics, ...options });
  }

  get record(): RunRecord {
    return this.#record;
  }

  /** "news" with RunNews after every change. */
  get changes(): EventEmitter<{ news: [RunNews] }> {
    return this.#news.changes;
  }

  /** Read once; a failure is not kept. */
  texts(): Promise<RunTexts> {
    this.#texts ??= loadTexts(this.#context.ports, this.#record).catch((error: unknown) => {
      this.#texts = null;
      throw error;
    });
    return this.#texts;
  }

  /** A readable file of one evaluation image; NOT_FOUND until it is drawn. */
  evaluationImage(model: string, index: number): Promise<string> {
    return evaluationImage(this.#context, model, index);
  }

  /** Takes up a run where its state says it is; nothing happens for one that has ended. */
  async activate(): Promise<void> {
    if (this.#live || isFinal(this.#record.state.status)) return;
    await this.#reconciler.scan();
    await this.dispatch({ type: 'adopted' });
    const live = await this.#inTurn(async () => {
      // What was taken in may have ended the run.
      if (this.#stop.signal.aborted || isFinal(this.#record.state.status)) return null;
      this.#live = new AbortController();
      for (const command of commandsBetween(null, this.#record.state))
        await carryOut(this.#effects, command);
      return this.#live;
    });
    if (!live) return;
    this.#reconciler.start(
      this.#context.ports.rescanMs,
      AbortSignal.any([live.signal, this.#stop.signal]),
    );
  }

  dispatch(event: NewEvent): Promise<RunRecord> {
    return this.#inTurn(() => this.#apply({ ...event, at: Date.now() }));
  }

  /**
   * Takes on a changed config while the run stands still; what changed, in words. Refuses a change
   * that a run cannot take on.
   */
  reconfigure(config: RunConfig): Promise<string[]> {
    return this.#inTurn(async () => {
      const before = this.#record;
      const changes = changesOnResume(before.config, config).map(differenceText);
      if (changes.length === 0) return changes;
      const state = replanned(
        before.state,
        planChange(before.state.plan, config),
        `resumed with changed settings: ${changes.join('; ')}`,
      );
      const record = { ...before, config, state, version: before.version + 1 };
      await this.#writer.write(record);
      this.#record = record;
      this.#tell([]);
      return changes;
    });
  }

  /** FAILED_PRECONDITION where lists are lost and the config's files give others. */
  async resume(): Promise<RunRecord> {
    await restoreTexts(this.#context.ports, this.#record);
    const forgiven = await this.#reconciler.lastDeadLetters();
    const record = await this.dispatch({ type: 'resume', forgiven });
    await this.activate();
    return record;
  }

  /** Leaves the run as it is, for another process or a later start to take up. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#live = null;
    this.#tasks.abortAll();
    await this.#tasks.settled();
    await this.#turn.catch(() => undefined);
    await this.metrics.flush();
  }

  /** One after the other, in the order of the calls. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #apply(event: RunEvent): Promise<RunRecord> {
    if (this.#stop.signal.aborted) return this.#record;
    const before = this.#record;
    const state = transition(before.state, event);
    if (state === before.state) {
      await this.#writer.catchUp(before);
      return before;
    }
    const record = { ...before, state, version: before.version + 1 };
    const commands = commandsBetween(before.state, state);
    const announcements = announcementsBetween(before.state, state);
    const onlyStep =
      event.type === 'train-step' &&
      commands.length === 0 &&
      announcements.every((news) => news.type === 'train-step');
    if (onlyStep) await this.#writer.writeLater(record);
    else await this.#writer.write(record);
    this.#record = record;
    if (before.state.bestModel !== state.bestModel)
      await pointBest(this.#context.directory, state.bestModel).catch(() => undefined);
    if (this.#live) {
      for (const command of commands) await carryOut(this.#effects, command);
      if (state.status !== 'running') this.#tasks.abortAll();
    }
    if (event.type === 'train-rolled-back') this.metrics.rewind(event.model, event.step);
    this.#tell(announcements);
    if (isFinal(state.status)) {
      this.#live?.abort();
      this.#live = null;
    }
    return record;
  }

  #tell(announcements: Announcement[]): void {
    for (const news of announcements)
      if (news.type === 'train-step') this.metrics.add(news.model, news.metrics);
    this.#news.tell(this.#record, announcements);
  }
}
