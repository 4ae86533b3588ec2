/**
 * Events for everybody who watches runs. The stream is followed once, however many watch, and only
 * while somebody does. A watcher has a place in the stream and no queue of its own: what it has not
 * read yet is read when it asks, from the newest events that are kept here, or from the stream.
 */
import { toJsonString } from '@bufbuild/protobuf';
import { EventSchema, type Event } from '@spindle/proto';
import { delay, ensureError, type Logger } from '@spindle/kit';
import type { Bus } from '@spindle/mesh';

/** Newest events of all runs that are kept: who is further behind reads them from the stream. */
const mostKept = 512;
/** The stream is followed on for so long after the last watcher left: the next is often near. */
const lingerMs = 10_000;
const retryMs = 250;

/** An event of the stream, and its JSON text once somebody has asked for that. */
export interface ToldEvent {
  sequence: bigint;
  event: Event;
  json?: string;
}

/** The JSON text of an event, made once for all who watch. */
export function jsonOf(told: ToldEvent): string {
  return (told.json ??= toJsonString(EventSchema, told.event));
}

/** What is read of the bus. */
export type EventStream = Pick<Bus, 'events' | 'eventFrom' | 'lastEventSequence'>;

export interface FanOutOptions {
  bus: EventStream;
  logger: Logger;
  lingerMs?: number;
}

interface Follower {
  stop: AbortController;
  /** Resolves when `end` is known. */
  begun: Promise<void>;
}

export class EventFanOut {
  readonly #options: FanOutOptions;
  /** In order and without a gap up to `#end`. */
  #kept: ToldEvent[] = [];
  /** The newest sequence that the stream is known to have had. */
  #end = 0n;
  /** Grows whenever the server has lost its stream: sequences begin anew. */
  #stream = 0;
  #follower: Follower | null = null;
  #watchers = 0;
  /** Wakes watchers that wait for the next event, by run. */
  readonly #waiting = new Map<string, Set<() => void>>();
  #linger: NodeJS.Timeout | undefined;

  constructor(options: FanOutOptions) {
    this.#options = options;
  }

  /** How many are watching now. */
  get watchers(): number {
    return this.#watchers;
  }

  /** Whether the stream is being followed. */
  get following(): boolean {
    return this.#follower !== null;
  }

  stop(): void {
    clearTimeout(this.#linger);
    this.#follower?.stop.abort();
    this.#follower = null;
    this.#kept = [];
  }

  /** Events of a run from a sequence on, each once and in order, until the signal aborts. */
  async *watch(
    runId: string,
    { fromSequence, signal }: { fromSequence: bigint; signal: AbortSignal },
  ): AsyncGenerator<ToldEvent, void> {
    this.#watchers += 1;
    clearTimeout(this.#linger);
    const follower = (this.#follower ??= this.#follow());
    try {
      await Promise.race([follower.begun, whenAborted(signal)]);
      let next = fromSequence > 0n ? fromSequence : 1n;
      let stream = this.#stream;
      let isBehind = true;
      while (!signal.aborted) {
        if (stream !== this.#stream) {
          stream = this.#stream;
          next = 1n;
          isBehind = true;
        }
        const end = this.#end;
        if (isBehind || next < this.#first()) {
          const found = await this.#stored(runId, next, signal);
          if (found === undefined) continue;
          if (found === null) {
            // The stream has none up to `end`; what came after that is kept here.
            isBehind = false;
            if (stream === this.#stream && end >= next) next = end + 1n;
            continue;
          }
          next = found.sequence + 1n;
          yield found;
          continue;
        }
        const kept = this.#firstKept(runId, next);
        if (kept !== undefined) {
          next = kept.sequence + 1n;
          yield kept;
          continue;
        }
        if (this.#end >= next) next = this.#end + 1n;
        await this.#nextEvent(runId, signal);
      }
    } finally {
      this.#leave();
    }
  }

  #leave(): void {
    this.#watchers -= 1;
    if (this.#watchers > 0 || this.#follower === null) return;
    clearTimeout(this.#linger);
    this.#linger = setTimeout(() => this.stop(), this.#options.lingerMs ?? lingerMs).unref();
  }

  /** The first sequence from which on all events are kept. */
  #first(): bigint {
    return this.#kept[0]?.sequence ?? this.#end + 1n;
  }

  /** From the newest back: who keeps up looks at one or two. */
  #firstKept(runId: string, from: bigint): ToldEvent | undefined {
    let first: ToldEvent | undefined;
    for (let i = this.#kept.length - 1; i >= 0; i--) {
      const told = this.#kept[i];
      if (told === undefined || told.sequence < from) break;
      if (told.event.runId === runId) first = told;
    }
    return first;
  }

  #follow(): Follower {
    const stop = new AbortController();
    const begun = new Promise<void>((resolve) => void this.#read(stop.signal, resolve));
    return { stop, begun };
  }

  async #read(signal: AbortSignal, begin: () => void): Promise<void> {
    const { bus, logger } = this.#options;
    while (!signal.aborted) {
      try {
        const last = await bus.lastEventSequence();
        if (signal.aborted) return;
        // What was told meanwhile is missing here: it is in the stream.
        this.#kept = [];
        if (last < this.#end) this.#stream += 1;
        this.#end = last;
        begin();
        this.#wake([...this.#waiting.keys()]);
        for await (const { sequence, event } of bus.events('*', {
          fromSequence: last + 1n,
          signal,
        }))
          this.#take({ sequence, event });
      } catch (error) {
        logger.debug({ err: ensureError(error) }, 'following the events was interrupted');
      }
      await delay(retryMs, signal).catch(() => undefined);
    }
  }

  #take(told: ToldEvent): void {
    const isNewStream = told.sequence <= this.#end;
    if (isNewStream) {
      this.#stream += 1;
      this.#kept = [];
    }
    this.#end = told.sequence;
    this.#kept.push(told);
    if (this.#kept.length > mostKept) this.#kept.splice(0, mostKept / 2);
    this.#wake(isNewStream ? [...this.#waiting.keys()] : [told.event.runId]);
  }

  /** The next stored event of a run: null where there is none, undefined while nobody answers. */
  async #stored(
    runId: string,
    from: bigint,
    signal: AbortSignal,
  ): Promise<ToldEvent | null | undefined> {
    try {
      return await this.#options.bus.eventFrom(runId, from);
    } catch (error) {
      this.#options.logger.debug({ err: ensureError(error) }, 'an event could not be read');
      await delay(retryMs, signal).catch(() => undefined);
      return undefined;
    }
  }

  #wake(runIds: readonly string[]): void {
    for (const runId of runIds) for (const wake of [...(this.#waiting.get(runId) ?? [])]) wake();
  }

  async #nextEvent(runId: string, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const waiting = this.#waiting.get(runId) ?? new Set();
    this.#waiting.set(runId, waiting);
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        waiting.delete(wake);
        if (waiting.size === 0) this.#waiting.delete(runId);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }
}

function whenAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
