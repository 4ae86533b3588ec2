/**
 * All runs of an artifacts folder. One gateway drives at a time: it holds the "gateway" lease, and
 * the folder's lock. When either is lost, every driver is put down and taken up again from the
 * stored state once both are back.
 */
import { EventEmitter } from 'node:events';
import { ensureError, linkedAbort, SpindleError, delay } from '@spindle/kit';
import { Lease } from '@spindle/mesh';
import type { RunConfig } from '../config/schema.js';
import { progressOf } from '../domain/progress.js';
import { mayResume } from '../domain/machine.js';
import { namedBlobs } from '../domain/snapshots.js';
import { isFinal, type RunStatus } from '../domain/state.js';
import { RunDriver } from './driver.js';
import { Drivers } from './drivers.js';
import { lockFolder, type FolderLock } from './folder-lock.js';
import type { RunNews } from './news-feed.js';
import type { OrchestratorPorts } from './ports.js';
import type { RunRecord } from './record.js';
import { workersLeave } from './workers-leave.js';
import { RunRecords, type UnreadableRun } from './records.js';

export interface OrchestratorOptions extends OrchestratorPorts {
  /** Names this process in the lease. */
  owner: string;
  leaseTtlMs: number;
}

export class Orchestrator {
  readonly news = new EventEmitter<{ news: [RunNews] }>();
  readonly #options: OrchestratorOptions;
  readonly #records: RunRecords;
  readonly #drivers = new Drivers();
  /** Why, by run id. */
  readonly #unreadable = new Map<string, string>();
  readonly #stop = new AbortController();
  #lock: FolderLock | null = null;
  #loop: Promise<void> = Promise.resolve();
  readonly #ready = new EventEmitter<{ ready: [SpindleError?] }>();
  #isReady = false;
  readonly #watchers = new Set<(ready: boolean) => void>();

  constructor(options: OrchestratorOptions) {
    this.#options = options;
    this.#records = new RunRecords(options.bus.kv('runs'), options.root, options.logger, {
      fence: () => this.#lock?.assertHeld(),
    });
    this.news.setMaxListeners(0);
  }

  /** Resolves when runs are loaded and driven. Refuses a folder that another live gateway uses. */
  async start(): Promise<void> {
    this.#lock = await this.#takeFolder();
    const ready = new Promise<void>((resolve, reject) =>
      this.#ready.once('ready', (error) => (error ? reject(error) : resolve())),
    );
    this.#loop = this.#lead();
    await ready;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
    await this.#lock?.release();
  }

  async #lead(): Promise<void> {
    const { bus, owner, leaseTtlMs, logger } = this.#options;
    while (!this.#stop.signal.aborted) {
      let lease: Lease | null = null;
      const term = new AbortController();
      const linked = linkedAbort(this.#stop.signal, term.signal);
      try {
        const lock = (this.#lock ??= await this.#takeFolder());
        lock.lost.addEventListener('abort', () => term.abort(), { once: true });
        lease = await Lease.acquire(bus.kv('leases'), 'gateway', owner, {
          ttlMs: leaseTtlMs,
          signal: linked.signal,
          onWait: (holder) => logger.warn({ holder }, waitingFor(holder)),
        });
        lease.lost.addEventListener('abort', () => term.abort());
        await this.#load(() => term.abort());
        this.#become(true);
        this.#ready.emit('ready');
        await aborted(linked.signal);
        lock.lost.throwIfAborted();
        if (!this.#stop.signal.aborted)
          logger.warn('the lease was lost; runs are taken up again once it is back');
      } catch (error) {
        if (!this.#stop.signal.aborted)
          logger.error({ err: error }, 'the runs could not be taken up; trying again');
      } finally {
        this.#become(false);
        await Promise.all([...this.#drivers.values()].map((driver) => driver.stop()));
        this.#drivers.clear();
        await lease?.release().catch(() => undefined);
        linked.cleanup();
        if (this.#lock?.lost.aborted) {
          await this.#lock.release();
          this.#lock = null;
        }
      }
      if (!this.#stop.signal.aborted) await delay(500, this.#stop.signal).catch(() => undefined);
    }
    this.#ready.emit(
      'ready',
      new SpindleError('CANCELLED', 'the gateway was stopped before it held the lease.'),
    );
  }

  /** Called whenever the lease is taken or lost. */
  onReady(fn: (ready: boolean) => void): void {
    this.#watchers.add(fn);
  }

  #become(ready: boolean): void {
    this.#isReady = ready;
    for (const fn of this.#watchers) fn(ready);
  }

  #takeFolder(): Promise<FolderLock> {
    const { root, logger } = this.#options;
    const onWait = (message: string): void => logger.warn(message);
    return lockFolder(root, 'gateway', { signal: this.#stop.signal, onWait });
  }

  async #load(fenced: () => void): Promise<void> {
    this.#drivers.clear();
    this.#unreadable.clear();
    const { records, unreadable } = await this.#records.load();
    for (const { runId, reason } of unreadable) this.#unreadable.set(runId, reason);
    for (const record of records) {
      try {
        // Throws for a record that is whole and means nothing.
        progressOf(record.state, Date.now());
        await this.#adopt(record, fenced);
      } catch (thrown) {
        await this.#setAside(record.runId, ensureError(thrown));
      }
    }
    // All are known by now: what one of them needs no more, another one may.
    for (const { runId } of records)
      await this.#drivers
        .get(runId)
        ?.activate()
        .catch((thrown: unknown) => this.#setAside(runId, ensureError(thrown)));
    await this.#startNext();
  }

  /** One run that cannot be taken up keeps no other from going on; the server's absence does. */
  async #setAside(runId: string, error: SpindleError): Promise<void> {
    if (error.retryable || error.code === 'ABORTED' || error.code === 'CANCELLED') throw error;
    this.#options.logger.error({ err: error, run: runId }, 'a run cannot be taken up');
    await this.#drivers.get(runId)?.stop();
    this.#drivers.delete(runId);
    this.#unreadable.set(runId, `it cannot be taken up: ${error.message}`);
  }

  async #adopt(record: RunRecord, fenced: () => void): Promise<RunDriver> {
    const driver = await RunDriver.open(record, this.#options, this.#records, {
      onFenced: (error) => {
        this.#options.logger.error({ err: error }, 'this gateway was overtaken by another one');
        fenced();
      },
      isNamed: (digest) => this.#isNamed(digest),
    });
    driver.changes.on('news', (news) => {
      this.news.emit('news', news);
      const freed =
        news.announcements.some((announcement) => announcement.type === 'run-changed') &&
        news.record.state.status !== 'running';
      if (freed)
        void this.#startNext().catch((error: unknown) =>
          this.#options.logger.error({ err: error }, 'the next run could not be started'),
        );
    });
    this.#drivers.set(record.runId, driver);
    return driver;
  }

  /** What a run names that cannot be read is not known. */
  #isNamed(digest: string): boolean {
    if (this.#unreadable.size > 0) return true;
    return [...this.#drivers.values()].some(({ record }) => namedBlobs(record.state).has(digest));
  }

  /** Runs go one after the other: there is one trainer. A paused run makes way. */
  async #startNext(): Promise<void> {
    const drivers = [...this.#drivers.values()];
    if (drivers.some((driver) => driver.record.state.status === 'running')) return;
    const next = drivers.find((driver) => driver.record.state.status === 'queued');
    await next?.dispatch({ type: 'start' });
  }

  async create(record: RunRecord): Promise<RunRecord> {
    this.requireReady();
    if (this.has(record.runId)) {
      throw new SpindleError(
        'ALREADY_EXISTS',
        `run_id: expected an id that is not in use, got "${record.runId}".`,
      );
    }
    await this.#records.create(record);
    const driver = await this.#adopt(record, () => undefined);
    await driver.activate();
    await this.#startNext();
    return driver.record;
  }

  get(runId: string): RunDriver {
    const driver = this.#drivers.get(runId);
    if (!driver) {
      this.requireReady();
      const reason = this.#unreadable.get(runId);
      if (reason !== undefined)
        throw new SpindleError('FAILED_PRECONDITION', `run "${runId}" is unreadable: ${reason}`);
      throw new SpindleError('NOT_FOUND', `run_id: no run is named "${runId}".`);
    }
    return driver;
  }

  /** Whether `get` has a driver for it now. */
  drives(runId: string): boolean {
    return this.#drivers.has(runId);
  }

  has(runId: string): boolean {
    return this.#drivers.has(runId) || this.#unreadable.has(runId);
  }

  /** Runs that are there and cannot be driven. */
  unreadable(): UnreadableRun[] {
    return [...this.#unreadable].map(([runId, reason]) => ({ runId, reason }));
  }

  /** Newest first; the same array until a run comes or goes. */
  list(): readonly RunDriver[] {
    return this.#drivers.newestFirst();
  }

  async pause(runId: string): Promise<RunRecord> {
    const driver = this.get(runId);
    const record = await driver.dispatch({ type: 'pause', reason: 'paused on request' });
    return expectStatus(record, ['paused'], 'pause');
  }

  /** With a config, its changes are taken on first; `changes` says which. */
  async resume(
    runId: string,
    config: RunConfig | null = null,
  ): Promise<{ record: RunRecord; changes: string[] }> {
    const driver = this.get(runId);
    const { status } = driver.record.state;
    if (!mayResume(status)) throw refuse(driver.record, 'resume');
    // Its settings are those of what it has made.
    if (status === 'succeeded' && config !== null) throw refuse(driver.record, 'resume');
    const running = this.list().find((other) => other.record.state.status === 'running');
    if (running) {
      throw new SpindleError(
        'FAILED_PRECONDITION',
        `run "${runId}" cannot be resumed while run "${running.record.runId}" is running; ` +
          'pause that one first.',
      );
    }
    const changes = config === null ? [] : await driver.reconfigure(config);
    return { record: await driver.resume(), changes };
  }

  async cancel(runId: string): Promise<RunRecord> {
    const driver = this.get(runId);
    if (isFinal(driver.record.state.status)) throw refuse(driver.record, 'cancel');
    return driver.dispatch({ type: 'cancel', reason: 'cancelled on request' });
  }

  async delete(runId: string): Promise<void> {
    const driver = this.get(runId);
    if (!isFinal(driver.record.state.status)) throw refuse(driver.record, 'delete');
    await workersLeave(runId, this.#options.bus);
    await driver.stop();
    await this.#options.bus.purgeRun(runId);
    await this.#options.store.deleteResults(runId);
    await this.#options.store.deleteCheckpoints(runId);
    await this.#records.delete(runId);
    // Last, so that what could not be deleted as a whole is still there to be deleted again.
    this.#drivers.delete(runId);
  }

  get ready(): boolean {
    return this.#isReady;
  }

  directory(runId: string): string {
    return this.#records.directory(runId);
  }

  /** UNAVAILABLE while no run can be told of, so that nobody takes that for "there are none". */
  requireReady(): void {
    if (!this.#isReady)
      throw new SpindleError(
        'UNAVAILABLE',
        'this gateway does not hold its lease: it is waiting for NATS, or for another gateway ' +
          'to let go of the runs; try again.',
      );
  }
}

function expectStatus(record: RunRecord, expected: string[], verb: string): RunRecord {
  if (!expected.includes(record.state.status)) throw refuse(record, verb);
  return record;
}

function refuse(record: RunRecord, verb: string): SpindleError {
  return new SpindleError(
    'FAILED_PRECONDITION',
    `run "${record.runId}" is ${record.state.status}; it cannot be ` +
      `${verb === 'cancel' ? 'cancelled' : `${verb}d`}${wayOn(verb, record.state.status)}.`,
  );
}

function wayOn(verb: string, status: RunStatus): string {
  if (verb === 'delete') return ' before it has ended; cancel it first';
  if (verb === 'resume' && status === 'cancelled') return '; start a new one from its config';
  return '';
}

function waitingFor(holder: string | null): string {
  return holder === null
    ? 'the runs cannot be taken up: NATS does not answer; waiting for it'
    : `gateway "${holder}" has the runs; this one takes them up once that one has let go`;
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) =>
    signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}
