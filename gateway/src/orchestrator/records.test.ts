import { existsSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger, SpindleError } from '@spindle/kit';
import { type KvStore } from '@spindle/mesh';
import { expect, it } from 'vitest';
import type { RunRecord } from './record.js';
import { RunRecords } from './records.js';

it('leaves no folder behind when a run cannot be stored', async () => {
  const root = mkdtempSync(join(tmpdir(), 'spindle-records-'));
  const kv = {
    create: () => Promise.reject(new SpindleError('UNAVAILABLE', 'NATS is away')),
  } as unknown as KvStore;
  const records = new RunRecords(
    kv,
    root,
    createLogger('test', { level: 'silent', pretty: false }),
  );
  const record = { runId: 'r1', config: {} } as unknown as RunRecord;
  await expect(records.create(record)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  expect(existsSync(records.directory('r1'))).toBe(false);
});
