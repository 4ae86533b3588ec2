import type { Job, JobKind } from '@spindle/proto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SpindleError } from '@spindle/kit';
import { sampleJob, startTestNats, type TestNats } from '../testing/nats.js';
import type { Bus, ConsumeOptions, JobContext } from './bus.js';

let nats: TestNats;
const stops: (() => Promise<void>)[] = [];

beforeEach(async () => {
  nats = await startTestNats();
});

afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
  await nats.close();
});

function work(
  bus: Bus,
  handler: (job: Job, context: JobContext) => Promise<void>,
  options: Partial<ConsumeOptions> & { kinds?: JobKind[] } = {},
): () => Promise<void> {
  const { kinds = ['sample'], ...rest } = options;
  const controller = new AbortController();
  const loop = bus.consumeJobs(kinds, handler, {
    workerId: 'w1',
    retryDelayMs: 20,
    ...rest,
    signal: controller.signal,
  });
  const stop = async (): Promise<void> => {
    controller.abort();
    await loop;
  };
  stops.push(stop);
  return stop;
}

async function queued(bus: Bus): Promise<number> {
  const depths = await bus.queueDepths();
  return Object.values(depths).reduce((sum, depth) => sum + depth.pending + depth.inFlight, 0);
}

test('every job is handled once and leaves the queue, shared by all workers', async () => {
  const bus = await nats.provisioned();
  const other = await nats.bus();
  const done: string[] = [];
  for (let i = 0; i < 20; i++) await bus.publishJob(sampleJob(`r1/sample-spin1/${i}`), 0);
  const handled = { a: 0, b: 0 };
  let meet = (): void => undefined;
  const met = new Promise<void>((resolve) => (meet = resolve));
  const worker =
    (name: keyof typeof handled) =>
    async (job: Job): Promise<void> => {
      handled[name]++;
      done.push(job.key);
      // Neither empties the queue before the other one has looked at it.
      if (handled.a > 0 && handled.b > 0) meet();
      await met;
    };
  work(bus, worker('a'));
  work(other, worker('b'));
  await expect.poll(() => done.length, { timeout: 10_000 }).toBe(20);
  await expect.poll(() => queued(bus)).toBe(0);
  expect(new Set(done).size).toBe(20);
  expect(handled.a).toBeGreaterThan(0);
  expect(handled.b).toBeGreaterThan(0);
});

test('the same key and round is queued once, another round again', async () => {
  const bus = await nats.provisioned();
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  expect((await bus.queueDepths()).sample.pending).toBe(1);
  await bus.publishJob(sampleJob('r1/sample-base/0'), 1);
  expect((await bus.queueDepths()).sample.pending).toBe(2);
});

test('one worker never has two jobs in hand, whatever their kinds, and does not wait between them', async () => {
  const bus = await nats.provisioned();
  for (let i = 0; i < 6; i++) {
    await bus.publishJob(sampleJob(`r1/encode/${i}`, 'r1', { case: 'encode', value: {} }), 0);
    await bus.publishJob(sampleJob(`r1/sample-base/${i}`), 0);
  }
  let inHand = 0;
  let most = 0;
  let done = 0;
  const began = performance.now();
  work(
    bus,
    async () => {
      most = Math.max(most, ++inHand);
      await new Promise((resolve) => setImmediate(resolve));
      inHand--;
      done++;
    },
    { kinds: ['encode', 'sample'] },
  );
  await expect.poll(() => done, { timeout: 10_000 }).toBe(12);
  expect(most).toBe(1);
  expect(performance.now() - began).toBeLessThan(5_000);
});

test('the first job of a kind does not wait for those of another, nor is one taken beside it', async () => {
  const bus = await nats.provisioned();
  const taken: string[] = [];
  const waits: number[] = [];
  let published = 0;
  let finish: () => void = () => undefined;
  const finished = new Promise<void>((resolve) => (finish = resolve));
  work(
    bus,
    async (job) => {
      taken.push(job.key);
      waits.push(performance.now() - published);
      if (taken.length === 5) await finished;
    },
    { kinds: ['encode', 'sample', 'score'] },
  );
  const publish = async (key: string, kind: 'encode' | 'sample'): Promise<void> => {
    published = performance.now();
    const encode = { case: 'encode', value: {} } as const;
    await bus.publishJob(kind === 'encode' ? sampleJob(key, 'r1', encode) : sampleJob(key), 0);
  };
  for (let i = 0; i < 5; i++) {
    await publish(`r1/${i}`, i % 2 === 0 ? 'sample' : 'encode');
    await expect.poll(() => taken, { interval: 5, timeout: 5_000 }).toHaveLength(i + 1);
  }
  // A second each, where the others were waited for.
  expect(waits.reduce((sum, ms) => sum + ms)).toBeLessThan(1_500);
  await publish('r1/beside', 'encode');
  await expect.poll(async () => (await bus.queueDepths()).encode).toMatchObject({ pending: 1 });
  expect(taken).toHaveLength(5);
  finish();
  await expect.poll(() => taken.at(-1), { timeout: 5_000 }).toBe('r1/beside');
});

test('a long job keeps its worker as long as the worker says that it is working', async () => {
  const bus = await nats.provisioned({ ackWaitMs: 400 });
  let deliveries = 0;
  let finish: () => void = () => undefined;
  const finished = new Promise<void>((resolve) => (finish = resolve));
  const handler = async (): Promise<void> => {
    deliveries++;
    await finished;
  };
  work(bus, handler);
  work(await nats.bus(), handler);
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  const began = performance.now();
  await expect.poll(() => performance.now() - began, { timeout: 5_000 }).toBeGreaterThan(2_000);
  finish();
  await expect.poll(() => queued(bus)).toBe(0);
  expect(deliveries).toBe(1);
});

test('a transient failure is tried again after a delay, and reported', async () => {
  const bus = await nats.provisioned();
  const attempts: number[] = [];
  work(bus, async (_job, { attempt }) => {
    attempts.push(attempt);
    if (attempt < 3) throw new SpindleError('UNAVAILABLE', 'the store is away');
  });
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await expect.poll(() => attempts, { timeout: 10_000 }).toEqual([1, 2, 3]);
  await expect.poll(() => queued(bus)).toBe(0);
  expect(await bus.deadLetters('r1')).toEqual([]);
  const failures = await readFailures(bus, 2);
  expect(failures).toMatchObject([
    { attempt: 1, dead: false, reason: 'the store is away', worker: 'w1' },
    { attempt: 2, dead: false },
  ]);
});

test('the third failure is dead-lettered with its reason, reported and gone from the queue', async () => {
  const bus = await nats.provisioned();
  work(bus, async () => {
    throw new SpindleError('UNAVAILABLE', 'no\nluck');
  });
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await expect.poll(() => bus.deadLetters('r1'), { timeout: 10_000 }).toHaveLength(1);
  await expect.poll(() => queued(bus)).toBe(0);
  expect(await bus.deadLetters('r1')).toEqual([
    {
      key: 'r1/sample-base/0',
      reason: 'no luck (tried 3 times)',
      code: 'UNAVAILABLE',
      attempts: 3,
      at: expect.any(Number) as number,
      runCreatedMs: 0n,
    },
  ]);
  expect(await bus.deadLetters('r2')).toEqual([]);
  expect((await readFailures(bus, 3)).map(({ dead }) => dead)).toEqual([false, false, true]);
});

test('a failure that cannot pass is dead-lettered at once', async () => {
  const bus = await nats.provisioned();
  let runs = 0;
  work(bus, async () => {
    runs++;
    throw new SpindleError('INVALID_ARGUMENT', 'steps: expected at least 1, got 0');
  });
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await expect.poll(() => bus.deadLetters('r1'), { timeout: 10_000 }).toHaveLength(1);
  expect(runs).toBe(1);
  expect(await bus.deadLetters('r1')).toMatchObject([
    { reason: 'steps: expected at least 1, got 0', attempts: 1 },
  ]);
});

test('a job whose worker died three times is dead-lettered without being run again', async () => {
  const bus = await nats.provisioned({ ackWaitMs: 200 });
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await bus.publishJob(sampleJob('r1/sample-base/1'), 0);
  // A worker that dies leaves a delivery without any answer: pull and never ack.
  const { connect } = await import('nats');
  const connection = await connect({ servers: nats.server.url });
  const consumer = await connection.jetstream().consumers.get('SPINDLE_JOBS', 'sample-workers');
  for (let deliveries = 0; deliveries < 3; ) {
    const msg = await consumer.next({ expires: 2_000 });
    if (msg?.json<{ key: string }>().key === 'r1/sample-base/0') deliveries++;
    else msg?.nak();
  }
  await connection.close();
  const run: string[] = [];
  work(
    bus,
    async (job) => {
      run.push(job.key);
    },
    { maxDeliver: 3 },
  );
  await expect
    .poll(() => bus.deadLetters('r1'), { timeout: 10_000 })
    .toContainEqual({
      key: 'r1/sample-base/0',
      reason: 'crashed the worker 3 times',
      code: 'INTERNAL',
      attempts: 3,
      at: expect.any(Number) as number,
      runCreatedMs: 0n,
    });
  expect(run).not.toContain('r1/sample-base/0');
});

test('a job given up because its worker stops does not count as a failure', async () => {
  const bus = await nats.provisioned();
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  for (let i = 0; i < 4; i++) {
    const worker = await nats.bus();
    let attempt = 0;
    const stop = work(worker, async (_job, context) => {
      attempt = context.attempt;
      await new Promise((_, reject) =>
        context.signal.addEventListener('abort', () => reject(context.signal.reason as Error)),
      );
    });
    await expect.poll(() => attempt, { timeout: 5_000 }).toBe(1);
    await stop();
    expect(await queued(bus)).toBe(1);
  }
  expect(await bus.deadLetters('r1')).toEqual([]);
});

test('a full queue makes the publisher wait, not fail', async () => {
  const bus = await nats.provisioned({ maxQueuedJobs: 3 });
  let published = 0;
  const publishing = (async () => {
    for (let i = 0; i < 8; i++) {
      await bus.publishJob(sampleJob(`r1/sample-base/${i}`), 0);
      published++;
    }
  })();
  await expect.poll(() => published).toBe(3);
  const done: string[] = [];
  work(bus, async (job) => {
    done.push(job.key);
  });
  await publishing;
  await expect.poll(() => done.length, { timeout: 10_000 }).toBe(8);
});

test('a publisher that waits for room stops waiting when it is told to', async () => {
  const bus = await nats.provisioned({ maxQueuedJobs: 1 });
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  const controller = new AbortController();
  const publishing = bus.publishJob(sampleJob('r1/sample-base/1'), 0, {
    signal: controller.signal,
  });
  controller.abort();
  await expect(publishing).rejects.toMatchObject({ code: 'CANCELLED' });
});

test('purging a run leaves other runs and the job in hand ends cleanly', async () => {
  const bus = await nats.provisioned();
  const started: string[] = [];
  let finish: () => void = () => undefined;
  const finished = new Promise<void>((resolve) => (finish = resolve));
  await bus.publishJob(sampleJob('r1/sample-base/0', 'r1'), 0);
  await bus.publishJob(sampleJob('r1/sample-base/1', 'r1'), 0);
  await bus.publishJob(sampleJob('r2/sample-base/0', 'r2'), 0);
  work(bus, async (job) => {
    started.push(job.key);
    await finished;
  });
  await expect.poll(() => started.length).toBe(1);
  await bus.purgeJobs('r1');
  finish();
  await expect
    .poll(() => started, { timeout: 10_000 })
    .toEqual(['r1/sample-base/0', 'r2/sample-base/0']);
  await expect.poll(() => queued(bus)).toBe(0);
});

test('workers go on after the server crashed, with its queue', async () => {
  const bus = await nats.provisioned();
  const done: string[] = [];
  work(bus, async (job) => {
    done.push(job.key);
  });
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await expect.poll(() => done.length, { timeout: 10_000 }).toBe(1);
  const seen: boolean[] = [];
  bus.onStatus((connected) => seen.push(connected));
  await nats.crash();
  await bus.publishJob(sampleJob('r1/sample-base/1'), 0);
  await expect.poll(() => done, { timeout: 20_000 }).toContain('r1/sample-base/1');
  expect(seen).toEqual([false, true]);
});

test('workers make the streams again when the server comes back without its data', async () => {
  const bus = await nats.provisioned();
  const done: string[] = [];
  work(bus, async (job) => {
    done.push(job.key);
  });
  await nats.crash({ wipe: true });
  const publisher = await nats.provisioned();
  await publisher.publishJob(sampleJob('r1/sample-base/0'), 0);
  await expect.poll(() => done, { timeout: 20_000 }).toEqual(['r1/sample-base/0']);
});

test('consumers that are made anew give out what the old ones did not', async () => {
  const bus = await nats.provisioned();
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  const { connect } = await import('nats');
  const connection = await connect({ servers: nats.server.url });
  const { consumers } = connection.jetstream();
  // To the old consumer the job is in somebody's hand.
  const lost = await (await consumers.get('SPINDLE_JOBS', 'sample-workers')).next();
  expect(lost?.subject).toBe('spindle.jobs.sample.r1');
  const done: string[] = [];
  await bus.provision({ renewConsumers: true });
  const began = performance.now();
  work(bus, async (job) => {
    done.push(job.key);
  });
  await expect.poll(() => done, { timeout: 15_000 }).toEqual(['r1/sample-base/0']);
  // Sooner than the server's wait for a sign of life.
  expect(performance.now() - began).toBeLessThan(20_000);
  await connection.close();
});

test('a job that is given up again has a letter for each time, oldest first', async () => {
  const bus = await nats.provisioned();
  const reasons = ['the disk is odd', 'the disk is odder'];
  work(bus, async () => {
    throw new SpindleError('INVALID_ARGUMENT', reasons.shift() ?? 'no more');
  });
  for (const round of [0, 1]) {
    await bus.publishJob(sampleJob('r1/sample-base/0'), round);
    await expect.poll(() => bus.deadLetters('r1'), { timeout: 10_000 }).toHaveLength(round + 1);
  }
  const [first, second] = await bus.deadLetters('r1');
  expect([first?.reason, second?.reason]).toEqual(['the disk is odd', 'the disk is odder']);
  expect(second?.at).toBeGreaterThan(first?.at ?? Infinity);
});

test('something on the queue that is no job is dead-lettered', async () => {
  const bus = await nats.provisioned();
  const { connect } = await import('nats');
  const connection = await connect({ servers: nats.server.url });
  await connection.jetstream().publish('spindle.jobs.sample.r1', 'not a job');
  await connection.close();
  work(bus, async () => undefined);
  await expect.poll(() => bus.deadLetters('r1'), { timeout: 10_000 }).toHaveLength(1);
  const [letter] = await bus.deadLetters('r1');
  expect(letter?.reason).toMatch(/cannot be read/);
  await expect.poll(() => queued(bus)).toBe(0);
});

async function readFailures(
  bus: Bus,
  count: number,
): Promise<{ attempt: number; dead: boolean; reason: string; worker: string }[]> {
  const controller = new AbortController();
  const failures = [];
  for await (const { event } of bus.events('r1', { signal: controller.signal })) {
    if (event.fact.case === 'jobFailed') failures.push(event.fact.value);
    if (failures.length === count) break;
  }
  return failures;
}
