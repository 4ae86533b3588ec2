import { setMaxListeners } from 'node:events';
import { create } from '@bufbuild/protobuf';
import { EventSchema, type Event } from '@spindle/proto';
import { createLogger } from '@spindle/kit';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { EventFanOut, jsonOf, type EventStream } from './event-fan-out.js';

const warning = (runId: string, message: string): Event =>
  create(EventSchema, { runId, fact: { case: 'warning', value: { message } } });

/** A stream in memory. `lose` forgets it, as a server without its data does. */
class FakeStream implements EventStream {
  /** How many follow it, and how often one began to; how often one event was asked for. */
  followers = 0;
  followed = 0;
  asked = 0;
  #events: Event[] = [];
  #wake: (() => void)[] = [];

  publish(event: Event): void {
    this.#events.push(event);
    for (const wake of this.#wake.splice(0)) wake();
  }

  lose(): void {
    this.#events = [];
    for (const wake of this.#wake.splice(0)) wake();
  }

  async lastEventSequence(): Promise<bigint> {
    return BigInt(this.#events.length);
  }

  async eventFrom(runId: string, from: bigint) {
    this.asked += 1;
    const at = this.#events.findIndex((event, i) => event.runId === runId && BigInt(i + 1) >= from);
    const event = this.#events[at];
    return event ? { sequence: BigInt(at + 1), event } : null;
  }

  async *events(_: string, options: { fromSequence?: bigint; signal: AbortSignal }) {
    let next = Number(options.fromSequence ?? 1n);
    this.followers += 1;
    this.followed += 1;
    try {
      while (!options.signal.aborted) {
        if (this.#events.length < next - 1) next = 1;
        const event = this.#events[next - 1];
        if (event) yield { sequence: BigInt(next++), event };
        else
          await new Promise<void>((resolve) => {
            this.#wake.push(resolve);
            options.signal.addEventListener('abort', () => resolve(), { once: true });
          });
      }
    } finally {
      this.followers -= 1;
    }
  }
}

let stream: FakeStream;
let fanOut: EventFanOut;
let gone: AbortController;
beforeEach(() => {
  stream = new FakeStream();
  const logger = createLogger('test', { level: 'silent' });
  fanOut = new EventFanOut({ bus: stream, logger, lingerMs: 0 });
  gone = new AbortController();
  setMaxListeners(0, gone.signal);
});
afterEach(() => {
  gone.abort();
  fanOut.stop();
});

const watch = (runId: string, fromSequence = 0n) =>
  fanOut.watch(runId, { fromSequence, signal: gone.signal });

/** What the next events of a watch say. */
async function said(watching: ReturnType<typeof watch>, count: number): Promise<string[]> {
  const words: string[] = [];
  while (words.length < count) {
    const { value } = await watching.next();
    const fact = value?.event.fact;
    words.push(fact?.case === 'warning' ? `${value?.sequence} ${fact.value.message}` : 'none');
  }
  return words;
}

it('gives every watcher the events of its run, stored and new, over one follower', async () => {
  for (const word of ['a', 'b']) stream.publish(warning('r1', word));
  const [all, late, other] = [watch('r1'), watch('r1', 2n), watch('r2')];
  expect(await said(all, 2)).toEqual(['1 a', '2 b']);
  expect(await said(late, 1)).toEqual(['2 b']);
  const next = [said(all, 1), said(late, 1), said(other, 1)];
  stream.publish(warning('r2', 'c'));
  stream.publish(warning('r1', 'd'));
  expect(await Promise.all(next)).toEqual([['4 d'], ['4 d'], ['3 c']]);
  expect([stream.followers, stream.followed, fanOut.watchers]).toEqual([1, 1, 3]);
});

it('gives an event to all watchers as one text', async () => {
  const watching = [watch('r1'), watch('r1')];
  stream.publish(warning('r1', 'a'));
  await Promise.all(watching.map((one) => said(one, 1)));
  const next = watching.map((one) => one.next());
  stream.publish(warning('r1', 'b'));
  const [first, second] = (await Promise.all(next)).map(({ value }) => value);
  expect(first).toBe(second);
  expect(first && jsonOf(first)).toContain('"message":"b"');
});

it('has a slow watcher read on in the stream, however far it is behind', async () => {
  const [slow, quick] = [watch('r1'), watch('r1')];
  stream.publish(warning('r1', '1'));
  await Promise.all([said(slow, 1), said(quick, 1)]);
  const count = 2_000;
  for (let i = 2; i <= count; i++) {
    stream.publish(warning('r1', String(i)));
    await said(quick, 1);
  }
  const asked = stream.asked;
  const rest = Array.from({ length: count - 1 }, (_, i) => `${i + 2} ${i + 2}`);
  expect(await said(slow, count - 1)).toEqual(rest);
  // Nothing was held for it meanwhile but the newest.
  expect(stream.asked - asked).toBeGreaterThan(1_000);
});

it('begins anew when the server has lost its events', async () => {
  for (const word of ['a', 'b', 'c']) stream.publish(warning('r1', word));
  const watching = watch('r1');
  await said(watching, 3);
  const next = said(watching, 2);
  await expect.poll(() => stream.followers).toBe(1);
  stream.lose();
  stream.publish(warning('r1', 'd'));
  stream.publish(warning('r1', 'e'));
  expect(await next).toEqual(['1 d', '2 e']);
});

it('keeps nothing of a thousand watchers that have left', async () => {
  stream.publish(warning('r1', 'a'));
  const watching = Array.from({ length: 1_000 }, () => watch('r1'));
  await Promise.all(watching.map((one) => said(one, 1)));
  expect([fanOut.watchers, fanOut.following, stream.followed]).toEqual([1_000, true, 1]);
  const waiting = watching.slice(500).map((one) => one.next());
  await Promise.all(watching.slice(0, 500).map((one) => one.return(undefined)));
  gone.abort();
  await Promise.all(waiting);
  expect(fanOut.watchers).toBe(0);
  await expect.poll(() => [fanOut.following, stream.followers]).toEqual([false, 0]);
});

it('waits for a server that is away', async () => {
  const answer = stream.eventFrom.bind(stream);
  const failures = [new Error('away'), new Error('away')];
  stream.eventFrom = (runId, from) => {
    const failure = failures.pop();
    return failure ? Promise.reject(failure) : answer(runId, from);
  };
  stream.publish(warning('r1', 'a'));
  expect(await said(watch('r1'), 1)).toEqual(['1 a']);
  expect(failures).toEqual([]);
});
