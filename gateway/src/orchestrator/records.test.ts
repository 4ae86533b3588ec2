import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger, SpindleError } from '@spindle/kit';
import { everyBitFlip } from '@spindle/kit/testing';
import { type KvStore } from '@spindle/mesh';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { RunConfig } from '../config/schema.js';
import { initialState } from '../domain/state.js';
import { parseRecord, serializeRecord, type RunRecord } from './record.js';
import { RunRecords } from './records.js';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'spindle-records-'));
});
afterEach(() => rmSync(root, { recursive: true }));

const logger = createLogger('test', { level: 'silent', pretty: false });
const recordsOn = (kv: Partial<KvStore>): RunRecords => new RunRecords(kv as KvStore, root, logger);
const away = (): Promise<never> => Promise.reject(new SpindleError('UNAVAILABLE', 'NATS is away'));

function record(version: number): RunRecord {
  const plan = {
    runId: 'r1',
    seed: 0,
    iterations: 1,
    sft: false,
    rows: 2,
    imagesPerPrompt: 1,
    evaluationPrompts: 0,
    evaluationSeed: 0,
    metrics: [],
    stop: null,
    sharedDevice: true,
    encodeShardSize: 2,
    sampleShardSize: 2,
    trainSteps: 1,
    sftSteps: 0,
    maxMissing: 0,
  };
  const config = { name: 'r1', model: '/m', data: {}, train: {}, sampling: {} };
  return {
    schemaVersion: 1,
    version,
    runId: 'r1',
    config: config as unknown as RunConfig,
    resolution: 8,
    manifest: { digest: `sha256:${'0'.repeat(64)}`, bytes: 1, mediaType: 'application/jsonl' },
    prompts: null,
    trace: {},
    state: initialState(plan, 1_000),
  };
}

const versionInFile = (): number =>
  parseRecord(readFileSync(join(root, 'r1', 'run.json'), 'utf8'), 'r1').version;

it('leaves no folder behind when a run cannot be stored', async () => {
  const records = recordsOn({ create: away });
  await expect(records.create(record(1))).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  expect(existsSync(records.directory('r1'))).toBe(false);
});

it('does not write the file of a run that another gateway has taken over', async () => {
  const overtaken = recordsOn({
    create: () => Promise.resolve(1),
    update: () => Promise.reject(new SpindleError('ABORTED', 'the key was changed')),
    get: () => Promise.resolve({ value: serializeRecord(record(80)), revision: 9 }),
  });
  await overtaken.create(record(1));
  await recordsOn({ put: () => Promise.resolve(9) }).save(record(80));
  await expect(overtaken.save(record(2))).rejects.toMatchObject({ code: 'ABORTED' });
  expect(versionInFile()).toBe(80);
});

it('asks the file who has the run while the bucket is away', async () => {
  const records = recordsOn({ put: away });
  mkdirSync(join(root, 'r1'));
  await records.save(record(5));
  await expect(records.save(record(4))).rejects.toMatchObject({ code: 'ABORTED' });
  await records.save(record(6));
  expect(versionInFile()).toBe(6);
});

it('writes a file anew that is damaged, gone or older than the bucket, and makes no folder', async () => {
  const inBucket = serializeRecord(record(7));
  const records = recordsOn({
    keys: () => Promise.resolve(['r1']),
    get: () => Promise.resolve({ value: inBucket, revision: 9 }),
  });
  await records.load();
  expect(existsSync(records.directory('r1'))).toBe(false);
  mkdirSync(records.directory('r1'));
  const file = join(root, 'r1', 'run.json');
  for (const copy of [null, serializeRecord(record(6)), inBucket.slice(0, -9)]) {
    rmSync(file, { force: true });
    if (copy !== null) writeFileSync(file, copy);
    const loaded = await records.load();
    expect(loaded.unreadable).toEqual([]);
    expect(versionInFile()).toBe(7);
  }
});

it('sees in the file a gateway that has another bucket, and one that has the folder', async () => {
  const bucket = { put: () => Promise.resolve(1), update: () => Promise.resolve(2) };
  const [zombie, successor] = [recordsOn(bucket), recordsOn(bucket)];
  mkdirSync(join(root, 'r1'));
  await zombie.save(record(2));
  await successor.save(record(80));
  await expect(zombie.save(record(3))).rejects.toMatchObject({ code: 'ABORTED' });
  expect(versionInFile()).toBe(80);
  const fenced = new RunRecords(bucket as unknown as KvStore, root, logger, {
    fence: () => Promise.reject(new SpindleError('ABORTED', 'another gateway has the folder')),
  });
  await expect(fenced.save(record(81))).rejects.toMatchObject({ code: 'ABORTED' });
  expect(versionInFile()).toBe(80);
});

it('writes the file of a last state once the disk has room again', async () => {
  const bucket = { put: () => Promise.resolve(1), update: () => Promise.resolve(2) };
  let isFull = false;
  let tries = 0;
  const records = new RunRecords(bucket as unknown as KvStore, root, logger, {
    write: async (path, text) => {
      tries++;
      if (isFull) throw new SpindleError('RESOURCE_EXHAUSTED', 'the disk is full');
      writeFileSync(path, text);
    },
    retryMs: 5,
  });
  mkdirSync(join(root, 'r1'));
  await records.save(record(2));
  isFull = true;
  await records.save(record(3));
  await expect.poll(() => tries).toBeGreaterThan(3);
  expect(versionInFile()).toBe(2);
  isFull = false;
  await expect.poll(versionInFile).toBe(3);
  // Once there, it is written no more.
  const written = tries;
  await records.save(record(4));
  expect([versionInFile(), tries]).toEqual([4, written + 1]);
});

it('believes no record with a flipped bit', () => {
  for (const damaged of everyBitFlip(serializeRecord(record(3))))
    expect(() => parseRecord(damaged, 'r1/run.json')).toThrow('r1/run.json: ');
});

it('reads records of versions that sealed none', () => {
  expect(parseRecord(JSON.stringify(record(3)), 'r1').version).toBe(3);
});
