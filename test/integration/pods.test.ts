import { startTestS3, TestAuthority, type TestS3, writeCertificate } from '@spindle/kit/testing';
import { RunStatus } from '@spindle/proto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { weightsOf } from '../harness/files.js';
import { Mesh } from '../harness/mesh.js';

describe('services that share an object store and no folder', () => {
  const ca = new TestAuthority('ca');
  let s3: TestS3;
  let folder: string;
  beforeAll(async () => {
    s3 = await startTestS3();
    folder = await mkdtemp(join(tmpdir(), 'spindle-pods-'));
  });
  afterAll(async () => {
    await s3.close();
    await rm(folder, { recursive: true, force: true });
  });

  /** Of one pod: its own disk, and the store. */
  const pod = (name: string): Record<string, string> => ({
    ...s3.environment,
    SPINDLE_STORE: 's3://bucket/mesh',
    SPINDLE_ARTIFACTS: join(folder, name),
  });

  it('train on two ranks, over TLS and each with its own rights, to the bytes of one machine', async () => {
    const local = await Mesh.start({ env: { trainer: { SPINDLE_RANKS: '2' } } });
    let expected: Record<string, string>;
    try {
      await local.create(tinyConfig(), 'run');
      expect((await local.ended('run')).reason).toBe('');
      expected = weightsOf(local.runDirectory('run'));
    } finally {
      await local.stop();
    }
    const pods = await Mesh.start({
      artifacts: join(folder, 'gateway'),
      worldSize: 2,
      certificates: writeCertificate(folder, ca.issue('pod'), ca),
      env: {
        // The evaluator writes the gateway's reports: one pod.
        gateway: pod('gateway'),
        evaluator: pod('gateway'),
        // Inspects models for the gateway, so that workers may come with the queue.
        sampler: { ...pod('inspector'), SPINDLE_JOBS: 'off' },
        scorer: pod('scorer'),
        trainer: pod('trainer-0'),
      },
    });
    try {
      await pods.join('trainer', 'trainer-1', {
        ...pod('trainer-1'),
        SPINDLE_WORLD_SIZE: '2',
        SPINDLE_RANK: '1',
        SPINDLE_RENDEZVOUS: pods.address('trainer'),
      });
      await pods.create(tinyConfig(), 'run');
      await pods.join('sampler', 'sampler-1', pod('sampler-1'));
      const run = await pods.ended('run');
      expect(run.reason).toBe('');
      expect(run.status).toBe(RunStatus.SUCCEEDED);
      expect(weightsOf(pods.runDirectory('run'))).toEqual(expected);
      expect(await pods.spindle('ls')).toMatchObject({
        code: 0,
        stdout: expect.stringContaining('succeeded') as string,
      });
      expect(await readFile(join(pods.natsDirectory, 'nats-server.log'), 'utf8')).not.toMatch(
        // Workers ask whether they may make the queue; nothing else is refused.
        /Violation(?!.*STREAM\.CREATE)/,
      );
    } finally {
      await pods.stop();
    }
  });
});
