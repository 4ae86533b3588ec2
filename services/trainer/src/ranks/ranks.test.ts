import { createClient, Lifecycle, type SpindleError } from '@spindle/kit';
import { openLocalStore, type ArtifactStore } from '@spindle/mesh';
import { logger } from '@spindle/kit/testing';
import { startTestNats, type TestNats } from '@spindle/mesh/testing';
import { TrainerService, type TrainResponse } from '@spindle/proto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startTrainer } from '../service.js';
import { drawnInOrder, trainRequest } from '../testing/data.js';
import { fakeEngine, type FakeEngine } from '../testing/fake-engine.js';
import { RankLeader } from './leader.js';
import { follow } from './member.js';
import { checkRankNetwork, groupAddress, rankPlan } from './plan.js';
import { rankBackend } from './start.js';

describe('the plan', () => {
  const cluster = {
    SPINDLE_RANK: '1',
    SPINDLE_WORLD_SIZE: '4',
    SPINDLE_RENDEZVOUS: 'trainer-0.trainer:7070',
  };
  it.each([
    [{}, { kind: 'alone' }],
    [{ SPINDLE_RANKS: '2' }, { kind: 'local', worldSize: 2, timeoutSeconds: 300 }],
    [cluster, { kind: 'member', rank: 1, worldSize: 4, rendezvous: 'trainer-0.trainer:7070' }],
    [
      { ...cluster, SPINDLE_RANK: '0', SPINDLE_RANK_TIMEOUT: '9' },
      { kind: 'leader', worldSize: 4, timeoutSeconds: 9 },
    ],
    [{ ...cluster, SPINDLE_RANK: '0', SPINDLE_WORLD_SIZE: '1' }, { kind: 'alone' }],
  ])('of %j', (variables, expected) => {
    expect(rankPlan(variables)).toMatchObject(expected);
  });
  it.each([
    [
      { SPINDLE_RANK: '1' },
      'SPINDLE_RANK: expected it with SPINDLE_WORLD_SIZE and SPINDLE_RENDEZVOUS, or none of them',
    ],
    [
      { ...cluster, SPINDLE_RANK: '4' },
      'SPINDLE_RANK: expected a rank below SPINDLE_WORLD_SIZE (4), got 4',
    ],
    [{ ...cluster, SPINDLE_RANKS: '2' }, 'SPINDLE_RANKS: expected 1 where SPINDLE_RANK is set'],
    [{ ...cluster, SPINDLE_RENDEZVOUS: 'trainer' }, 'SPINDLE_RENDEZVOUS: expected host:port'],
  ])('refuses %j', (variables, message) => {
    expect(() => rankPlan(variables)).toThrow(message);
  });
  it('gives every rank of a machine a GPU of its own', () => {
    expect([0, 1, 2].map((rank) => rankBackend('cuda:1', 'cuda', rank))).toEqual([
      'cuda:1',
      'cuda:2',
      'cuda:3',
    ]);
    expect(rankBackend('auto', 'cuda', 1)).toBe('cuda:1');
    expect(rankBackend(undefined, 'cpu', 1)).toBe('');
    expect(rankBackend('reference', 'reference', 1)).toBe('reference');
  });
  it('has engines meet at the next port', () => {
    expect(groupAddress('trainer-0.trainer:7070')).toBe('tcp:trainer-0.trainer:7071');
    expect(groupAddress('[::1]:7070')).toBe('tcp:[::1]:7071');
    expect(groupAddress('https://trainer-0.trainer:7070')).toBe('tcp:trainer-0.trainer:7071');
  });

  it('is on several machines only where the network is trusted', () => {
    const open = (rendezvous: string, trusted: boolean): void => {
      for (const rank of ['0', '1'])
        checkRankNetwork(
          rankPlan({
            SPINDLE_RANK: rank,
            SPINDLE_WORLD_SIZE: '2',
            SPINDLE_RENDEZVOUS: rendezvous,
          }),
          { tls: undefined, trusted },
        );
    };
    for (const away of ['trainer-0:7070', 'https://trainer-0.trainer:7070']) {
      expect(() => open(away, false)).toThrow(/in plain; SPINDLE_TRUSTED_NETWORK=1/);
      open(away, true);
    }
    for (const here of ['127.0.0.1:7070', 'https://localhost:7070']) open(here, false);
  });
});

describe('rank 0', () => {
  let nats: TestNats;
  let store: ArtifactStore;
  let root: string;
  let lifecycle: Lifecycle;
  beforeAll(async () => {
    nats = await startTestNats();
    await nats.provisioned();
  });
  afterAll(() => nats.close());
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'ranks-'));
    store = await openLocalStore(root);
    lifecycle = new Lifecycle();
  });
  afterEach(async () => {
    await lifecycle.shutdown('test over');
    await rm(root, { recursive: true, force: true });
  });

  async function start(timeoutSeconds = 20): Promise<number> {
    const leader = new RankLeader({
      worldSize: 2,
      timeoutSeconds,
      groupAddress: 'unix:/nowhere',
      logger,
      stopping: lifecycle.signal,
    });
    const context = {
      store,
      bus: await nats.bus('t1'),
      logger,
      workerId: 't1',
      address: '127.0.0.1:0',
      portFile: undefined,
      token: undefined,
    };
    return startTrainer(lifecycle, { engine: fakeEngine(), ranks: leader, ...context });
  }

  function member(port: number, engine: FakeEngine, signal: AbortSignal): Promise<void> {
    const place = {
      rank: 1,
      worldSize: 2,
      rendezvous: `127.0.0.1:${port}`,
      workerId: 't1-rank1',
      once: true,
    };
    return follow({ engine, store, logger, token: undefined, ...place }, signal);
  }

  async function train(
    port: number,
  ): Promise<{ responses: TrainResponse[]; error: SpindleError | undefined }> {
    const client = createClient(TrainerService, `127.0.0.1:${port}`);
    lifecycle.defer('client', () => client.close());
    const responses: TrainResponse[] = [];
    try {
      for await (const response of client.train(await trainRequest(store)))
        responses.push(response);
      return { responses, error: undefined };
    } catch (error) {
      return { responses, error: error as SpindleError };
    }
  }

  it('gathers the metrics of all ranks, each of which sees its local batch once', async () => {
    const port = await start();
    const engine = fakeEngine();
    const seen: number[] = [];
    engine.beforeBatch = async ({ step, offset, stepBatchSize, last }) => {
      if (step === 0) seen.push(offset, stepBatchSize, Number(last));
    };
    void member(port, engine, lifecycle.signal);
    const { responses, error } = await train(port);
    expect(error).toBeUndefined();
    // A batch of 4, two micro-batches for each rank.
    expect(seen).toEqual([2, 4, 0, 3, 4, 1]);
    expect(responses[1]?.event.value).toMatchObject({ step: 1, loss: 1, implicitAccuracy: 1 });
  });

  it('waits with all ranks for images that are not drawn', async () => {
    const port = await start();
    void member(port, fakeEngine(), lifecycle.signal);
    const client = createClient(TrainerService, `127.0.0.1:${port}`);
    lifecycle.defer('client', () => client.close());
    const { draw, streamed } = await drawnInOrder(store, { steps: 4, batchSize: 2 });
    await draw(0, 1);
    const seen: string[] = [];
    for await (const { event } of client.train(streamed)) {
      seen.push(event.case ?? '');
      if (event.case === 'waiting') await draw(2, 3);
    }
    expect(seen).toEqual(['started', 'step', 'step', 'waiting', 'step', 'step', 'finished']);
  });

  it("ends with the cause where another rank's training fails", async () => {
    const port = await start();
    const engine = fakeEngine();
    engine.beforeBatch = async ({ step }) => {
      if (step === 3) throw Object.assign(new Error('loss is NaN'), { code: 'DIVERGED' });
    };
    void member(port, engine, lifecycle.signal);
    expect((await train(port)).error).toMatchObject({
      code: 'DIVERGED',
      message: 'training diverged at step 4: rank 1 of 2: loss is NaN; there is no checkpoint yet',
    });
  });

  it('resumes when a rank was lost, and gives up when it is lost at the same step again and again', async () => {
    const port = await start();
    const engine = fakeEngine();
    let losses = 0;
    const again = async (): Promise<void> => {
      while (!lifecycle.signal.aborted) {
        const life = new AbortController();
        engine.beforeBatch = async ({ step }) => {
          if (step !== 2 && step !== 4) return;
          // Once at step 2, then always at step 4.
          if (step === 2 && losses > 0) return;
          losses++;
          life.abort();
        };
        await member(port, engine, AbortSignal.any([life.signal, lifecycle.signal]));
      }
    };
    const living = again();
    const { responses, error } = await train(port);
    expect(error).toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringMatching(
        /^training stopped after step 4: ranks were lost 3 times without progress, the last time because rank 1 of 2 ended/,
      ) as string,
    });
    expect(
      responses.flatMap(({ event }) => (event.case === 'started' ? [event.value.resumedStep] : [])),
    ).toEqual([0, 2, 4, 4]);
    expect(
      responses.flatMap(({ event }) => (event.case === 'step' ? [event.value.step] : [])),
    ).toEqual([1, 2, 3, 4]);
    await lifecycle.shutdown('done');
    await living;
  });

  it('says which rank did not come', async () => {
    const port = await start(0.05);
    expect((await train(port)).error).toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringContaining(
        'expected all 2 ranks within 0.05 s, got none from rank 1',
      ) as string,
    });
  });
});
