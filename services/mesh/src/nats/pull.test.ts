import { connect, type NatsConnection } from 'nats';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { sampleJob, startTestNats, type TestNats } from '../testing/nats.js';
import { natsError } from './errors.js';
import { PullInbox, readDeliveryInfo } from './pull.js';

let nats: TestNats;
let connection: NatsConnection;

beforeEach(async () => {
  nats = await startTestNats();
  connection = await connect({ servers: nats.server.url });
});

afterEach(async () => {
  await connection.close();
  await nats.close();
});

test('both forms of the subject of an answer are read, and nothing else', () => {
  const info = {
    consumer: 'sample-workers',
    attempt: 2,
    sequence: 7,
    timestampNanos: '1764586674123456789',
    pending: 5,
  };
  const tail = '2.7.9.1764586674123456789.5';
  expect(readDeliveryInfo(`$JS.ACK.SPINDLE_JOBS.sample-workers.${tail}`)).toEqual(info);
  expect(readDeliveryInfo(`$JS.ACK._.hash.SPINDLE_JOBS.sample-workers.${tail}.rnd`)).toEqual(info);
  expect(readDeliveryInfo('')).toBeUndefined();
  expect(readDeliveryInfo('$JS.ACK.SPINDLE_JOBS.sample-workers.2.7')).toBeUndefined();
  expect(readDeliveryInfo(`_INBOX.ACK.SPINDLE_JOBS.sample-workers.${tail}`)).toBeUndefined();
});

test('a pull ends with a job, with none, or with a failure where there is no consumer', async () => {
  const bus = await nats.provisioned();
  const inbox = new PullInbox(connection);
  expect(await inbox.next('SPINDLE_JOBS', ['sample-workers'], 100)).toBeUndefined();
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await bus.publishJob(sampleJob('r1/sample-base/1'), 0);
  const first = await inbox.next('SPINDLE_JOBS', ['sample-workers'], 1_000);
  expect(first?.info).toMatchObject({ attempt: 1, sequence: 1, pending: 1 });
  expect((await bus.queueDepths()).sample).toMatchObject({ pending: 1, inFlight: 1 });
  await first?.ackAck();
  expect((await bus.queueDepths()).sample.inFlight).toBe(0);
  const refused = await inbox
    .next('SPINDLE_JOBS', ['no-such-workers'], 1_000)
    .catch((error: unknown) => natsError(error, 'pulling'));
  expect(refused).toMatchObject({ code: 'UNAVAILABLE' });
  inbox.close();
});

test('a job that comes when nobody waits is the next one, or given back at the end', async () => {
  const bus = await nats.provisioned();
  const pulls: { subject: string; reply: string }[] = [];
  const seen = connection.subscribe('$JS.API.CONSUMER.MSG.NEXT.>', {
    callback: (_error, { subject, reply = '' }) => void pulls.push({ subject, reply }),
  });
  const inbox = new PullInbox(connection);
  expect(await inbox.next('SPINDLE_JOBS', ['sample-workers'], 50)).toBeUndefined();
  await expect.poll(() => pulls).toHaveLength(1);
  seen.unsubscribe();
  await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
  await bus.publishJob(sampleJob('r1/sample-base/1'), 0);
  const [pull] = pulls;
  connection.publish(pull?.subject ?? '', '2', { reply: pull?.reply ?? '' });
  await expect.poll(async () => (await bus.queueDepths()).sample.inFlight).toBe(2);
  await connection.flush();
  const late = await inbox.next('SPINDLE_JOBS', ['sample-workers'], 50);
  expect(late?.info.sequence).toBe(1);
  expect(inbox.close().map(({ info }) => info.sequence)).toEqual([2]);
});

test('answers to two pulls that come at once are both taken', async () => {
  const bus = await nats.provisioned();
  const inbox = new PullInbox(connection);
  let reply = '';
  const seen = connection.subscribe('$JS.API.CONSUMER.MSG.NEXT.>', {
    callback: (_error, msg) => void (reply = msg.reply ?? ''),
  });
  expect(await inbox.next('SPINDLE_JOBS', ['sample-workers'], 50)).toBeUndefined();
  await expect.poll(() => reply).not.toBe('');
  seen.unsubscribe();
  for (const job of ['r1/sample-base/0', 'r1/sample-base/1'])
    await bus.publishJob(sampleJob(job), 0);
  const first = inbox.next('SPINDLE_JOBS', ['sample-workers'], 1_000);
  connection.publish('$JS.API.CONSUMER.MSG.NEXT.SPINDLE_JOBS.sample-workers', '1', { reply });
  await connection.flush();
  await expect.poll(async () => (await bus.queueDepths()).sample.inFlight).toBe(2);
  const second = await inbox.next('SPINDLE_JOBS', ['sample-workers'], 1_000);
  expect([(await first)?.info.sequence, second?.info.sequence]).toEqual([1, 2]);
  inbox.close();
});
