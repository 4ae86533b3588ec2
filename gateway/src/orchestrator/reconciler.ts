/**
 * Keeps a run's state in step with the truth: committed results, dead letters, and what the queue
 * holds. Events only say when to look, so a lost event costs time and a repeated one nothing.
 */
import { delay, type ErrorCode } from '@spindle/kit';
import type { JobKind } from '@spindle/proto';
import { jobKey, parseJobKey } from '../domain/plan.js';
import { isFinal, isForgiven, type Letter } from '../domain/state.js';
import { workOf } from '../domain/work.js';
import { FinishedJobs } from './finished-jobs.js';
import { heal } from './heal.js';
import { IdleQueue } from './idle-queue.js';
import { isLoss } from './loss.js';
import { kindOfStage, stageNamed, type ShardOf } from './jobs.js';
import type { JobPublisher } from './publisher.js';
import { createdMs } from './record.js';
import type { RunContext } from './run-context.js';
import { roomWanted } from './texts.js';

interface TakenLetter {
  letter: Letter;
  job: ShardOf;
  code: ErrorCode;
  reason: string;
  attempts: number;
}

/** So often may a job miss data of which nothing is lost by the time that one looks. */
const mostUnexplained = 2;

export class Reconciler {
  readonly #context: RunContext;
  readonly #publisher: Pick<JobPublisher, 'busy'>;
  readonly #idleQueue: IdleQueue;
  #taking: Promise<void> = Promise.resolve();
  readonly #finished: FinishedJobs;
  /** Keys of jobs that the last comparison did not find on the queue. */
  #suspected: string | null = null;

  constructor(context: RunContext, publisher: Pick<JobPublisher, 'busy'>) {
    this.#context = context;
    this.#publisher = publisher;
    this.#idleQueue = new IdleQueue(context.ports.bus);
    this.#finished = new FinishedJobs(context);
  }

  /** Follows events and compares every `periodMs`, until the run has ended or `signal` aborts. */
  start(periodMs: number, signal: AbortSignal): void {
    void this.#loop(signal, () => this.#follow(signal), 1_000);
    void this.#loop(
      signal,
      async () => {
        await delay(periodMs, signal);
        await this.scan();
        await this.#checkQueue();
      },
      0,
    );
  }

  async #loop(signal: AbortSignal, turn: () => Promise<void>, pauseMs: number): Promise<void> {
    while (!signal.aborted && !this.#ended) {
      await turn().catch((error: unknown) => {
        if (!signal.aborted)
          this.#context.ports.logger.warn(
            { err: error, run: this.#context.record().runId },
            'comparing the run with its results failed; trying again',
          );
      });
      if (pauseMs > 0) await delay(pauseMs, signal).catch(() => undefined);
    }
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const { ports, record } = this.#context;
    for await (const { event } of ports.bus.events(record().runId, { signal })) {
      try {
        if (event.fact.case === 'jobDone') this.#finished.tell(event.fact.value.key);
        else if (event.fact.case === 'jobFailed' && event.fact.value.dead)
          await this.#takeDeadLetters();
      } catch (error) {
        if (!signal.aborted)
          ports.logger.warn(
            { err: error },
            'an event could not be taken in; the next comparison will',
          );
      }
      if (this.#ended) return;
    }
  }

  get #ended(): boolean {
    return isFinal(this.#context.record().state.status);
  }

  /** Takes in every committed result and dead letter that the state does not know. */
  async scan(): Promise<void> {
    const { ports, record } = this.#context;
    await this.#finished.take(await ports.store.listResults(record().runId));
    await this.#takeDeadLetters();
  }

  /** One after the other: an event and a comparison may both find a letter. */
  #takeDeadLetters(): Promise<void> {
    const taking = this.#taking.then(() => this.#takeLetters());
    this.#taking = taking.catch(() => undefined);
    return taking;
  }

  async #takeLetters(): Promise<void> {
    const { record, dispatch } = this.#context;
    for (const { letter, job, code, reason, attempts } of await this.#deadLetters()) {
      if (isForgiven(record().state, letter) || !record().state.stages[job.stage]) continue;
      if (isLoss({ code }) && (await this.#isMended(job, letter))) continue;
      // Nothing is wrong with the job: it is queued again once a person has made room and resumed
      // the run.
      if (code === 'RESOURCE_EXHAUSTED')
        await dispatch({ type: 'pause', reason: roomWanted(job.stage, reason), letter });
      else
        await dispatch({
          type: 'job-dead',
          stage: job.stage,
          shard: job.shard,
          reason,
          attempts,
          letter,
        });
    }
  }

  /** Whether what the job has missed is made again: the job then comes again too. */
  async #isMended(job: ShardOf, letter: Letter): Promise<boolean> {
    const { record, dispatch } = this.#context;
    if (record().state.status !== 'running') return false;
    if (await heal(this.#context, job, letter)) return true;
    // It was in a worker's hand when its stage was held back for what it has missed. Or that is
    // whole again, since another job has missed it too: then it is tried again.
    const isHeld = record().state.stages[job.stage]?.status === 'waiting';
    if (!isHeld && letter.count > mostUnexplained) return false;
    await dispatch({ type: 'inputs-lost', shards: [], models: [], texts: [], letter });
    return true;
  }

  async #deadLetters(): Promise<TakenLetter[]> {
    const { ports, record } = this.#context;
    const counts = new Map<string, number>();
    const taken: TakenLetter[] = [];
    const ofRun = createdMs(record());
    for (const dead of await ports.bus.deadLetters(record().runId)) {
      const { key, code, reason, attempts, at } = dead;
      const job = parseJobKey(key);
      // A worker may give up a job of a deleted run long after.
      if (!job || dead.runCreatedMs !== ofRun) continue;
      const count = (counts.get(key) ?? 0) + 1;
      counts.set(key, count);
      taken.push({ letter: { key, count, at }, job, code, reason, attempts });
    }
    return taken;
  }

  /** Of every key that was given up, when its newest letter was stored. */
  async lastDeadLetters(): Promise<Record<string, number>> {
    const last: Record<string, number> = {};
    for (const { letter } of await this.#deadLetters()) last[letter.key] = letter.at;
    return last;
  }

  /**
   * Jobs are lost when a queue holds none of its kind although some are outstanding, twice in a row
   * with nothing done in between.
   */
  async #checkQueue(): Promise<void> {
    const { ports, record, dispatch } = this.#context;
    const { bus, logger } = ports;
    const waiting = this.#outstanding();
    if (waiting.size === 0 || this.#publisher.busy) {
      this.#suspected = null;
      return;
    }
    if (await this.#idleQueue.isStuck(waiting)) {
      logger.warn(
        { run: record().runId },
        'jobs wait and idle workers do not get them; the queue is made anew',
      );
      await bus.provision({ renewConsumers: true });
      await dispatch({ type: 'jobs-lost' });
      return;
    }
    const depths = await bus.queueDepths();
    const missing = [...waiting]
      .filter(([kind]) => depths[kind].pending + depths[kind].inFlight === 0)
      .flatMap(([, keys]) => keys);
    const suspected = missing.length > 0 ? missing.join(' ') : null;
    if (suspected !== null && suspected === this.#suspected) {
      logger.warn(
        { run: record().runId, jobs: missing.length },
        'jobs are gone from the queue; they are published again',
      );
      await bus.provision();
      await dispatch({ type: 'jobs-lost' });
      this.#suspected = null;
      return;
    }
    this.#suspected = suspected;
  }

  #outstanding(): Map<JobKind, string[]> {
    const record = this.#context.record();
    const byKind = new Map<JobKind, string[]>();
    for (const [name, shards] of workOf(record.state).jobs) {
      const kind = kindOfStage(stageNamed(record, name).kind);
      if (!kind) continue;
      byKind.set(kind, [
        ...(byKind.get(kind) ?? []),
        ...shards.map((shard) => jobKey(record.runId, name, shard)),
      ]);
    }
    return byKind;
  }
}
