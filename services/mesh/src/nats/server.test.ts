import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { logger } from '@spindle/kit/testing';
import { findNatsServer } from './find.js';
import { startNatsServer } from './server.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'spindle-nats-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

test('a server on this machine is found with its version', () => {
  expect(findNatsServer()).toMatchObject({
    path: expect.stringMatching(/nats-server$/) as string,
    version: expect.stringMatching(/^\d+\.\d+\.\d+/) as string,
  });
});

test('a port in use is one clear sentence, and the first server is not disturbed', async () => {
  const first = await startNatsServer({ dir: join(dir, 'a'), logger });
  const port = Number(new URL(first.url).port);
  await expect(startNatsServer({ dir: join(dir, 'b'), port, logger })).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringMatching(
      new RegExp(`did not start on port ${port}: .*address already in use`),
    ) as string,
  });
  process.kill(first.pid, 0);
  await first.stop();
  expect(() => process.kill(first.pid, 0)).toThrow(/ESRCH/);
});

test('a binary that is not one is named', async () => {
  await expect(
    startNatsServer({ dir, binary: '/no/such/nats-server', logger }),
  ).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringContaining('/no/such/nats-server') as string,
  });
});
