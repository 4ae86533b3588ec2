/** Every service at every kind of subject, at a real nats-server. */
import { create } from '@bufbuild/protobuf';
import { newToken } from '@spindle/kit';
import { logger } from '@spindle/kit/testing';
import { EventSchema } from '@spindle/proto';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { sampleJob } from '../testing/nats.js';
import type { Bus } from './bus.js';
import { connectBus } from './connect.js';
import { Lease } from './lease.js';
import { natsServices, type NatsService } from './permissions.js';
import { startNatsServer, type NatsServer } from './server.js';

const password = newToken();
let dir: string;
let server: NatsServer;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'spindle-users-'));
  const users = (service: NatsService): string => `${service}-${password}`;
  server = await startNatsServer({ dir, users, logger });
});
afterAll(async () => {
  await server.stop();
  await rm(dir, { recursive: true, force: true });
});

const addressOf = (service: string): string =>
  server.url.replace('://', `://${service}:${service}-${password}@`);

/** What the server refuses of these lines, as any program could send them. */
function refused(service: NatsService, lines: readonly string[]): Promise<string> {
  const { hostname, port } = new URL(server.url);
  const user = { user: service, pass: `${service}-${password}`, verbose: false };
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    let said = '';
    socket.on('error', reject);
    socket.on('data', (bytes: Buffer) => {
      said += bytes.toString();
      if (!said.includes('PONG')) return;
      socket.destroy();
      resolve(said);
    });
    socket.write([`CONNECT ${JSON.stringify(user)}`, ...lines, 'PING', ''].join('\r\n'));
  });
}

const [g, sam, sco, tra] = natsServices;
const all = natsServices;
/** Subjects to write to, each with those who may. */
const writes: [string, readonly NatsService[]][] = [
  ['spindle.jobs.encode.r1', [g, sam]],
  ['spindle.jobs.sample.r1', [g, sam]],
  ['spindle.jobs.score.r1', [g, sco]],
  ['spindle.jobs.other.r1', []],
  ['spindle.dead.sample.r1', [sam]],
  ['spindle.dead.score.r1', [sco]],
  ['spindle.events.r1.jobDone', [g, sam, sco]],
  ['spindle.events.r1.jobFailed', [g, sam, sco]],
  ['spindle.events.r1.runChanged', [g]],
  ['spindle.events.r1.trainStep', [g]],
  ['$KV.spindle_runs.r1', [g]],
  ['$KV.spindle_leases.gateway', [g]],
  ['$KV.spindle_leases.trainer.r1/train-spin1', [tra]],
  ['$KV.spindle_workers.sampler.a', [sam]],
  ['$KV.spindle_workers.scorer.a', [sco]],
  ['$KV.spindle_workers.trainer.a', [tra]],
  ...['JOBS', 'EVENTS', 'DEAD'].flatMap((name): [string, NatsService[]][] => [
    [`$JS.API.STREAM.CREATE.SPINDLE_${name}`, [g]],
    [`$JS.API.STREAM.UPDATE.SPINDLE_${name}`, [g]],
    [`$JS.API.STREAM.INFO.SPINDLE_${name}`, [g]],
    [`$JS.API.STREAM.PURGE.SPINDLE_${name}`, [g]],
    [`$JS.API.STREAM.DELETE.SPINDLE_${name}`, []],
    [`$JS.API.STREAM.MSG.DELETE.SPINDLE_${name}`, []],
    [`$JS.API.STREAM.SNAPSHOT.SPINDLE_${name}`, []],
    [`$JS.API.CONSUMER.CREATE.SPINDLE_${name}`, [g]],
    [`$JS.API.CONSUMER.CREATE.SPINDLE_${name}.mine.spindle.x`, [g]],
    [`$JS.API.CONSUMER.DURABLE.CREATE.SPINDLE_${name}.mine`, [g]],
    [`$JS.API.CONSUMER.DELETE.SPINDLE_${name}.sample-workers`, [g]],
  ]),
  ['$JS.API.STREAM.MSG.GET.SPINDLE_JOBS', []],
  ['$JS.API.DIRECT.GET.SPINDLE_JOBS', []],
  ['$JS.API.CONSUMER.MSG.NEXT.SPINDLE_JOBS.encode-workers', [sam]],
  ['$JS.API.CONSUMER.MSG.NEXT.SPINDLE_JOBS.sample-workers', [sam]],
  ['$JS.API.CONSUMER.MSG.NEXT.SPINDLE_JOBS.score-workers', [sco]],
  ['$JS.API.CONSUMER.INFO.SPINDLE_JOBS.sample-workers', [g, sam]],
  ['$JS.API.CONSUMER.INFO.SPINDLE_JOBS.score-workers', [g, sco]],
  ['$JS.ACK.SPINDLE_JOBS.sample-workers.1.1.1.1.0', [sam]],
  ['$JS.ACK.SPINDLE_JOBS.score-workers.1.1.1.1.0', [sco]],
  ['$JS.API.STREAM.INFO.KV_spindle_runs', [g]],
  ['$JS.API.STREAM.INFO.KV_spindle_leases', [g, tra]],
  ['$JS.API.STREAM.INFO.KV_spindle_workers', [...all]],
  ['$JS.API.STREAM.MSG.GET.KV_spindle_runs', [g]],
  ['$JS.API.STREAM.MSG.GET.KV_spindle_leases', [g, tra]],
  ['$JS.API.STREAM.MSG.GET.KV_spindle_workers', [g]],
  ['$JS.API.DIRECT.GET.KV_spindle_leases.$KV.spindle_leases.trainer.x', [g, tra]],
  ['$JS.API.STREAM.DELETE.KV_spindle_runs', []],
  ['$JS.API.STREAM.PURGE.KV_spindle_runs', []],
  ['$JS.API.STREAM.CREATE.another', []],
  ['$JS.API.INFO', [...all]],
  ['$JS.API.STREAM.LIST', []],
  ['$JS.API.STREAM.NAMES', []],
  ['$JS.API.ACCOUNT.PURGE.x', []],
  ['$JS.API.SERVER.REMOVE', []],
  ['$SYS.REQ.SERVER.PING', []],
  ['_INBOX.gateway.x.1', []],
  ['_INBOX.sampler.x.1', []],
  ['another', []],
];
/** Patterns to listen to, each with those who may. */
const reads: [string, readonly NatsService[]][] = [
  ...all.map((service): [string, NatsService[]] => [`_INBOX.${service}.x.*`, [service]]),
  ...['_INBOX.>', '_INBOX.*', '>', 'spindle.>', 'spindle.jobs.>', 'spindle.events.>'].map(
    (pattern): [string, NatsService[]] => [pattern, []],
  ),
  ...['$KV.>', '$KV.spindle_runs.>', '$JS.>', '$JS.API.>', '$JS.EVENT.>', '$SYS.>'].map(
    (pattern): [string, NatsService[]] => [pattern, []],
  ),
];

describe.each(all)('%s', (service) => {
  it.each(writes)('at %s', async (subject, who) => {
    const said = await refused(service, [`PUB ${subject} 0`, '']);
    if (who.includes(service)) expect(said).not.toContain('-ERR');
    else expect(said).toContain(`-ERR 'Permissions Violation for Publish to "${subject}"'`);
  });

  it.each(reads)('listening to %s', async (pattern, who) => {
    const said = await refused(service, [`SUB ${pattern} 1`]);
    if (who.includes(service)) expect(said).not.toContain('-ERR');
    else expect(said).toContain(`-ERR 'Permissions Violation for Subscription to "${pattern}"'`);
  });
});

test('nobody else is a user, and each has a password of its own', async () => {
  for (const url of [
    server.url,
    addressOf('evaluator'),
    addressOf('scorer').replace(':scorer-', ':sampler-'),
  ])
    await expect(connectBus({ url, token: newToken(), name: 'x', logger })).rejects.toMatchObject({
      code: 'UNAUTHENTICATED',
    });
});

test('each does its part of a run', { timeout: 20_000 }, async () => {
  const buses: Bus[] = [];
  const join = async (service: NatsService): Promise<Bus> => {
    const bus = await connectBus({
      url: addressOf(service),
      name: service,
      service,
      logger,
      waitMs: 10_000,
    });
    buses.push(bus);
    return bus;
  };
  const stop = new AbortController();
  try {
    const [sampler, scorer, trainer] = [await join(sam), await join(sco), await join(tra)];
    // They wait for the one who may.
    const ready = Promise.all([sampler, scorer, trainer].map((bus) => bus.provision()));
    const gateway = await join(g);
    await gateway.provision({ renewConsumers: true });
    await ready;

    await gateway.publishJob(sampleJob('r1/a'), 0);
    await gateway.publishJob(sampleJob('r1/bad'), 0);
    await gateway.publishJob(sampleJob('r1/s', 'r1', { case: 'score', value: {} }), 0);
    const done: string[] = [];
    const options = { signal: stop.signal, maxDeliver: 1 };
    const consuming = [
      sampler.consumeJobs(
        ['encode', 'sample'],
        async ({ key, runId }) => {
          if (key === 'r1/bad') throw new Error('it is bad');
          const fact = { case: 'jobDone', value: { key } } as const;
          await sampler.publishEvent(create(EventSchema, { runId, fact }), key);
          done.push(key);
        },
        { ...options, workerId: 'sampler' },
      ),
      scorer.consumeJobs(['score'], async ({ key }) => void done.push(key), {
        ...options,
        workerId: 'scorer',
      }),
    ];
    await expect.poll(() => [...done].sort()).toEqual(['r1/a', 'r1/s']);
    await expect.poll(async () => (await gateway.deadLetters('r1')).length).toBe(1);
    const facts: string[] = [];
    for await (const { event } of gateway.events('r1', { signal: stop.signal })) {
      facts.push(event.fact.case ?? '');
      if (facts.includes('jobDone') && facts.includes('jobFailed')) break;
    }
    await expect
      .poll(async () => (await gateway.queueDepths()).sample)
      .toMatchObject({ pending: 0, inFlight: 0 });

    await sampler.kv('workers').put('sampler.a', '{}');
    await trainer.kv('workers').put('trainer.a', '{}');
    expect(await gateway.kv('workers').keys()).toEqual(['sampler.a', 'trainer.a']);
    await sampler.kv('workers').delete('sampler.a');
    for (const [bus, key] of [
      [trainer, 'trainer.r1/train-spin1'],
      [gateway, 'gateway'],
    ] as const) {
      const lease = await Lease.acquire(bus.kv('leases'), key, 'me', {
        ttlMs: 5_000,
        signal: stop.signal,
      });
      await lease.release();
    }
    const runs = gateway.kv('runs');
    const revision = await runs.create('r1', 'one');
    await runs.update('r1', 'two', revision);
    for await (const { value } of runs.watch('r1', stop.signal)) {
      expect(value).toBe('two');
      break;
    }
    await runs.delete('r1');
    await gateway.purgeRun('r1');
    expect(await gateway.deadLetters('r1')).toEqual([]);
    expect(await gateway.lastEventSequence()).toBeGreaterThan(0n);
    await expect(sampler.queueDepths()).rejects.toThrow(/Permissions Violation/);
    stop.abort();
    await Promise.all(consuming);
  } finally {
    stop.abort();
    for (const bus of buses) await bus.close();
  }
});
