import { create } from '@bufbuild/protobuf';
import { EventSchema, streams, type Event } from '@spindle/proto';
import { connect } from 'nats';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startTestNats, type TestNats } from '../testing/nats.js';
import type { Bus } from './bus.js';
import { connectBus } from './connect.js';
import type { KvStore } from './kv.js';
import { startNatsServer } from './server.js';
import { Lease } from './lease.js';
import { logger } from '@spindle/kit/testing';

let nats: TestNats;
let bus: Bus;
const controller = { current: new AbortController() };

beforeEach(async () => {
  controller.current = new AbortController();
  nats = await startTestNats();
  bus = await nats.provisioned();
});

afterEach(async () => {
  controller.current.abort();
  await nats.close();
});

function warning(runId: string, message: string): Event {
  return create(EventSchema, { runId, fact: { case: 'warning', value: { message } } });
}

async function take(
  runId: string,
  count: number,
  fromSequence?: bigint,
): Promise<{ sequence: bigint; text: string }[]> {
  const taken: { sequence: bigint; text: string }[] = [];
  const { signal } = controller.current;
  for await (const { sequence, event } of bus.events(runId, {
    signal,
    ...(fromSequence === undefined ? {} : { fromSequence }),
  })) {
    taken.push({ sequence, text: event.fact.case === 'warning' ? event.fact.value.message : '' });
    if (taken.length === count) break;
  }
  return taken;
}

test('provisioning twice, and by two processes at once, changes nothing', async () => {
  const other = await nats.bus();
  await Promise.all([bus.provision(), other.provision()]);
  await bus.provision({ ackWaitMs: 5_000 });
  expect(await bus.queueDepths()).toEqual({
    encode: { pending: 0, inFlight: 0, redelivered: 0 },
    sample: { pending: 0, inFlight: 0, redelivered: 0 },
    score: { pending: 0, inFlight: 0, redelivered: 0 },
  });
});

test('events come in order, per run or for all runs, and from a sequence on', async () => {
  await bus.publishEvent(warning('r1', 'a'));
  await bus.publishEvent(warning('r2', 'b'));
  await bus.publishEvent(warning('r1', 'c'));
  expect(await take('r1', 2)).toEqual([
    { sequence: 1n, text: 'a' },
    { sequence: 3n, text: 'c' },
  ]);
  expect((await take('*', 3)).map(({ text }) => text)).toEqual(['a', 'b', 'c']);
  expect(await take('*', 2, 2n)).toEqual([
    { sequence: 2n, text: 'b' },
    { sequence: 3n, text: 'c' },
  ]);
  expect(await bus.lastEventSequence()).toBe(3n);
  const from = async (runId: string, sequence: bigint): Promise<bigint | undefined> =>
    (await bus.eventFrom(runId, sequence))?.sequence;
  expect(await Promise.all([from('r1', 1n), from('r1', 2n), from('r2', 1n)])).toEqual([1n, 3n, 2n]);
  expect(await Promise.all([from('r1', 4n), from('r2', 3n)])).toEqual([undefined, undefined]);
});

test('an event with the same id is stored once', async () => {
  await bus.publishEvent(warning('r1', 'a'), 'once');
  await bus.publishEvent(warning('r1', 'a'), 'once');
  expect(await bus.lastEventSequence()).toBe(1n);
});

test('a reader sees live events and ends when its signal aborts', async () => {
  const reading = take('r1', 2);
  await bus.publishEvent(warning('r1', 'a'));
  await bus.publishEvent(warning('r1', 'b'));
  expect((await reading).map(({ text }) => text)).toEqual(['a', 'b']);
  const idle = take('r1', 99);
  controller.current.abort();
  expect((await idle).length).toBeLessThanOrEqual(2);
});

test('readers that have gone leave no consumer on the server', async () => {
  await bus.publishEvent(warning('r1', 'one'));
  for (let i = 0; i < 10; i++) await Promise.all([take('r1', 1), take('r1', 1)]);
  await bus.deadLetters('r1');
  const connection = await connect({ servers: nats.server.url });
  const { streams: all } = await connection.jetstreamManager();
  const consumers = async (stream: string): Promise<number> =>
    (await all.info(stream)).state.consumer_count;
  await expect.poll(() => consumers(streams.events)).toBe(0);
  await expect.poll(() => consumers(streams.dead)).toBe(0);
  await connection.close();
});

test('a reader goes on after the server crashed', async () => {
  const reading = take('r1', 2);
  await bus.publishEvent(warning('r1', 'before'));
  await nats.crash();
  await bus.publishEvent(warning('r1', 'after'));
  expect((await reading).map(({ text }) => text)).toEqual(['before', 'after']);
});

test('a reader finds the new events of a server that came back without its data', async () => {
  await bus.publishEvent(warning('r1', 'x'));
  await bus.publishEvent(warning('r1', 'before'));
  const seen: string[] = [];
  const reading = (async () => {
    for await (const { sequence, event } of bus.events('r1', {
      signal: controller.current.signal,
    })) {
      seen.push(`${sequence} ${event.fact.case === 'warning' ? event.fact.value.message : ''}`);
    }
  })();
  await expect.poll(() => seen).toEqual(['1 x', '2 before']);
  await nats.crash({ wipe: true });
  await (await nats.bus()).provision();
  await bus.publishEvent(warning('r1', 'after'));
  await expect.poll(() => seen, { timeout: 20_000 }).toEqual(['1 x', '2 before', '1 after']);
  controller.current.abort();
  await reading;
});

test('a server that came back without its data is asked for nothing that it does not have', async () => {
  await bus.kv('workers').put('sampler.w1', '{}');
  const ask: Record<string, () => Promise<unknown>> = {
    keys: () => bus.kv('workers').keys(),
    get: () => bus.kv('leases').get('gateway'),
    purge: () => bus.purgeRun('r1'),
    'dead letters': () => bus.deadLetters('r1'),
    depths: async () => Object.values(await bus.queueDepths()).map(({ pending }) => pending),
  };
  const connection = await connect({ servers: nats.server.url });
  const jsm = await connection.jetstreamManager();
  const answers: Record<string, unknown> = {};
  for (const [name, call] of Object.entries(ask)) {
    // As a wiped server has it, without the wait for its return.
    for await (const stream of jsm.streams.list()) await jsm.streams.delete(stream.config.name);
    answers[name] = await call();
  }
  await connection.close();
  expect(answers).toEqual({
    keys: [],
    get: null,
    purge: undefined,
    'dead letters': [],
    depths: [0, 0, 0],
  });
});

test('purging a run removes its events and leaves the others', async () => {
  await bus.publishEvent(warning('r1', 'a'));
  await bus.publishEvent(warning('r2', 'b'));
  await bus.purgeRun('r1');
  expect((await take('*', 1)).map(({ text }) => text)).toEqual(['b']);
});

test('a bucket writes by compare-and-set', async () => {
  const kv = bus.kv('runs');
  expect(await kv.get('r1')).toBeNull();
  const first = await kv.create('r1', 'one');
  await expect(kv.create('r1', 'two')).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  const second = await kv.update('r1', 'two', first);
  await expect(kv.update('r1', 'three', first)).rejects.toMatchObject({ code: 'ABORTED' });
  expect(await kv.get('r1')).toEqual({ value: 'two', revision: second });
  await kv.put('r2', 'x');
  expect(await kv.keys()).toEqual(['r1', 'r2']);
  await kv.delete('r1');
  expect(await kv.get('r1')).toBeNull();
  expect(await kv.keys()).toEqual(['r2']);
  await kv.create('r1', 'again');
});

test('a watcher sees the present value, changes and deletion', async () => {
  const kv = bus.kv('runs');
  await kv.put('r1', 'one');
  const seen: (string | null)[] = [];
  const { signal } = controller.current;
  const watching = (async () => {
    for await (const { value } of kv.watch('r1', signal)) seen.push(value);
  })();
  await expect.poll(() => seen).toEqual(['one']);
  await kv.put('r1', 'two');
  await kv.put('other', 'x');
  await kv.delete('r1');
  await expect.poll(() => seen).toEqual(['one', 'two', null]);
  controller.current.abort();
  await watching;
});

test('no server is one clear sentence', async () => {
  await expect(connectBus({ url: 'nats://127.0.0.1:1', name: 'x', logger })).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: expect.stringMatching(
      /no NATS server answers at nats:\/\/127.0.0.1:1; "npm start" starts one/,
    ) as string,
  });
});

test('a start waits for a server that comes later', async () => {
  const port = Number(new URL(nats.server.url).port);
  await nats.server.stop();
  const connecting = connectBus({
    url: `nats://127.0.0.1:${port}`,
    name: 'early',
    logger,
    waitMs: 20_000,
  });
  nats.server = await startNatsServer({ dir: nats.dir, port, logger });
  const early = await connecting;
  expect(early.serverVersion()).toMatch(/^\d/);
  await early.close();
});

function lease(kv: KvStore, owner: string, ttlMs = 600): Promise<Lease> {
  return Lease.acquire(kv, 'gateway', owner, { ttlMs, signal: controller.current.signal });
}

test('a lease has one holder; releasing it lets the next one in', async () => {
  const kv = bus.kv('leases');
  const first = await lease(kv, 'a');
  let second: Lease | undefined;
  const waiting = lease(kv, 'b').then((held) => (second = held));
  const began = performance.now();
  await expect.poll(() => performance.now() - began, { timeout: 5_000 }).toBeGreaterThan(1_500);
  expect(second).toBeUndefined();
  expect(first.lost.aborted).toBe(false);
  await first.release();
  await waiting;
  expect(second?.lost.aborted).toBe(false);
  await second?.release();
});

test('who waits for a lease says for whom, or that the server does not answer', async () => {
  const kv = bus.kv('leases');
  const first = await lease(kv, 'a');
  const said: (string | null)[] = [];
  const onWait = (holder: string | null): void => void said.push(holder);
  const stop = new AbortController();
  const { signal } = stop;
  const mute: KvStore = { ...pick(kv), get: () => new Promise(() => undefined) };
  const waiting = [
    Lease.acquire(kv, 'gateway', 'b', { ttlMs: 50, signal, onWait }),
    Lease.acquire(mute, 'gateway', 'c', { ttlMs: 100, signal, onWait }),
  ];
  await expect.poll(() => said).toEqual(['a', null]);
  stop.abort();
  expect((await Promise.allSettled(waiting)).map(({ status }) => status)).toEqual([
    'rejected',
    'rejected',
  ]);
  await first.release();
});

test('a lease whose holder is gone is taken over after its ttl, and the late holder learns it', async () => {
  const kv = bus.kv('leases');
  let stuck = false;
  const frozen: KvStore = {
    ...pick(kv),
    update: (key, value, revision) =>
      stuck ? new Promise(() => undefined) : kv.update(key, value, revision),
  };
  const first = await lease(frozen, 'a');
  stuck = true;
  const second = await lease(kv, 'b');
  expect(second.lost.aborted).toBe(false);
  await expect.poll(() => first.lost.aborted, { timeout: 5_000 }).toBe(true);
  await second.release();
});

test('waiting for a lease ends when the signal aborts', async () => {
  const kv = bus.kv('leases');
  const first = await lease(kv, 'a');
  const aborted = new AbortController();
  const waiting = Lease.acquire(kv, 'gateway', 'b', { ttlMs: 600, signal: aborted.signal });
  aborted.abort();
  await expect(waiting).rejects.toMatchObject({ code: 'CANCELLED' });
  await first.release();
});

function pick(kv: KvStore): KvStore {
  return {
    get: (key) => kv.get(key),
    create: (key, value) => kv.create(key, value),
    update: (key, value, revision) => kv.update(key, value, revision),
    put: (key, value) => kv.put(key, value),
    delete: (key) => kv.delete(key),
    keys: () => kv.keys(),
    watch: (key, signal) => kv.watch(key, signal),
  };
}

test('a lost lease tells whether another one has it, as far as anyone can know', async () => {
  const kv = bus.kv('leases');
  const { signal } = controller.current;
  const lease = await Lease.acquire(kv, 'k', 'one', { ttlMs: 300, signal });
  process.kill(nats.server.pid, 'SIGSTOP');
  await expect.poll(() => lease.lost.aborted, { timeout: 10_000 }).toBe(true);
  expect(await lease.takenByAnother()).toBeNull();
  process.kill(nats.server.pid, 'SIGCONT');
  await expect.poll(() => lease.takenByAnother()).toBe(false);
  await kv.delete('k');
  expect(await lease.takenByAnother()).toBeNull();
  const other = await Lease.acquire(kv, 'k', 'two', { ttlMs: 300, signal });
  expect(await lease.takenByAnother()).toBe(true);
  // Nor after that one has gone.
  await other.release();
  expect(await lease.takenByAnother()).toBe(true);
});
