import type { SpindleError } from '@spindle/kit';
import { create, fromJsonString } from '@bufbuild/protobuf';
import { createClient, Lifecycle, readSafetensors } from '@spindle/kit';
import { openLocalStore, openStore, type ArtifactStore } from '@spindle/mesh';
import { logger, startTestS3 } from '@spindle/kit/testing';
import { startTestNats, type TestNats } from '@spindle/mesh/testing';
import {
  LoraSettingsSchema,
  Objective,
  OnDivergence,
  Precision,
  TrainerService,
  TrainFinishedSchema,
  UnetRefSchema,
  type TrainRequest,
  type TrainResponse,
} from '@spindle/proto';
import { mkdir, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { startTrainer } from './service.js';
import { drawnInOrder, encodedShard, trainRequest } from './testing/data.js';
import { fakeEngine, type FakeEngine } from './testing/fake-engine.js';

let nats: TestNats;
let store: ArtifactStore;
let root: string;
const lifecycles: Lifecycle[] = [];

beforeAll(async () => {
  nats = await startTestNats();
  await nats.provisioned();
});
afterAll(() => nats.close());
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'trainer-'));
  store = await openLocalStore(root);
});
afterEach(async () => {
  await Promise.all(lifecycles.splice(0).map((lifecycle) => lifecycle.shutdown('test over')));
  await rm(root, { recursive: true, force: true });
});

async function start(
  engine: FakeEngine = fakeEngine(),
  options: { store?: ArtifactStore; workerId?: string; leaseTtlMs?: number } = {},
) {
  const lifecycle = new Lifecycle();
  lifecycles.push(lifecycle);
  const workerId = options.workerId ?? 't1';
  const bus = await nats.bus(workerId);
  const port = await startTrainer(lifecycle, {
    engine,
    store: options.store ?? store,
    bus,
    logger,
    workerId,
    address: '127.0.0.1:0',
    portFile: undefined,
    token: undefined,
    leaseTtlMs: options.leaseTtlMs ?? 600,
  });
  const client = createClient(TrainerService, `127.0.0.1:${port}`);
  lifecycle.defer('client', () => client.close());
  return { lifecycle, engine, client };
}

type Client = Awaited<ReturnType<typeof start>>['client'];
const cases = (responses: TrainResponse[]): string[] =>
  responses.map(({ event }) => event.case ?? 'none');

/** Reads the stream to its end; `stopAfter` cancels the call after that many steps. */
async function run(
  client: Client,
  request: TrainRequest,
  stopAfter = Number.POSITIVE_INFINITY,
): Promise<{ responses: TrainResponse[]; error: SpindleError | undefined }> {
  const controller = new AbortController();
  const responses: TrainResponse[] = [];
  try {
    for await (const response of client.train(request, { signal: controller.signal })) {
      responses.push(response);
      if (response.event.case === 'step' && response.event.value.step >= stopAfter)
        controller.abort();
    }
    return { responses, error: undefined };
  } catch (error) {
    return { responses, error: error as SpindleError };
  }
}

function weightsOf(responses: TrainResponse[]): string {
  const last = responses.at(-1)?.event;
  if (last?.case !== 'finished')
    throw new Error(`expected a finished run, got ${cases(responses).join(' ')}`);
  return last.value.unet?.weights?.digest ?? '';
}

async function checkpointSteps(key = 'r1/train-spin1'): Promise<string[]> {
  const names = await readdir(await store.checkpointDir(key));
  return names.filter((name) => name.endsWith('.json')).sort();
}

async function undisturbed(request: (s: ArtifactStore) => Promise<TrainRequest>): Promise<string> {
  const other = await openLocalStore(join(root, 'undisturbed'));
  const { client, lifecycle } = await start(fakeEngine(), { store: other });
  const digest = weightsOf((await run(client, await request(other))).responses);
  await lifecycle.shutdown('done');
  return digest;
}

describe('Train', () => {
  it('reports every step, checkpoints on the way, commits the result and cleans up', async () => {
    const { client, engine } = await start();
    const { responses, error } = await run(client, await trainRequest(store));
    expect(error).toBeUndefined();
    const step = 'step';
    expect(cases(responses)).toEqual([
      'started',
      ...Array<string>(5).fill(step),
      'checkpoint',
      ...Array<string>(5).fill(step),
      'checkpoint',
      ...Array<string>(5).fill(step),
      'checkpoint',
      ...Array<string>(5).fill(step),
      'finished',
    ]);
    expect(responses[1]!.event.value).toMatchObject({
      step: 1,
      loss: 1,
      implicitAccuracy: 1,
      learningRate: 1e-3,
      beta: 1000,
    });
    expect(responses[0]!.event.value).toMatchObject({
      resumedStep: 0,
      steps: 20,
      precision: Precision.FLOAT32,
      precisionReason: 'as configured',
    });
    const finished = responses.at(-1)!.event;
    if (finished.case !== 'finished') throw new Error('not finished');
    expect(finished.value.unet).toMatchObject({
      name: 'spin1',
      config: { mediaType: 'application/json' },
    });
    expect((await store.get(finished.value.unet!.config!)).toString()).toBe('{"from":"/m/unet"}');
    expect(await readdir(join(root, 'store', 'checkpoints', 'r1')).catch(() => [])).toEqual([]);
    expect(engine.sessions.every((session) => session.released)).toBe(true);
  });

  it('answers a second call from the stored result', async () => {
    const { client, engine } = await start();
    const request = await trainRequest(store);
    const first = await run(client, request);
    const second = await run(client, request);
    expect(cases(second.responses)).toEqual(['finished']);
    expect(weightsOf(second.responses)).toBe(weightsOf(first.responses));
    expect(engine.sessions).toHaveLength(1);
  });

  it('answers with no result of a deleted run or a damaged one, and leaves none of a later run aside', async () => {
    const { client, engine } = await start();
    const request = await trainRequest(store);
    const of = (runCreatedMs: bigint) => run(client, { ...request, runCreatedMs });
    const first = await of(1_000n);
    const later = await of(2_000n);
    expect(engine.sessions).toHaveLength(2);
    expect(weightsOf(later.responses)).toBe(weightsOf(first.responses));
    const late = await of(1_000n);
    expect(late.error).toMatchObject({ code: 'FAILED_PRECONDITION' });
    await store.deleteResults(request.key);
    await store.commitResult(request.key, '{"unet": 7}');
    expect(cases((await of(2_000n)).responses).at(-1)).toBe('finished');
    expect(cases((await of(2_000n)).responses)).toEqual(['finished']);
    expect(engine.sessions).toHaveLength(3);
  });

  it('reports of each step what it does on a CPU where a device tells errors with the step', async () => {
    const request = await trainRequest(store, { steps: 3 });
    const steps = async (tellsLater: boolean): Promise<unknown[]> => {
      const { client, engine } = await start();
      engine.tellsLater = tellsLater;
      const { responses, error } = await run(client, {
        ...request,
        key: `${request.key}-${String(tellsLater)}`,
      });
      expect(error).toBeUndefined();
      return responses
        .flatMap(({ event }) => (event.case === 'step' ? [event.value] : []))
        .map(({ seconds: _seconds, phases: _phases, ...rest }) => rest);
    };
    const told = await steps(false);
    expect(told).toHaveLength(3);
    expect(await steps(true)).toEqual(told);
  });

  it('trains plain denoising without generated images', async () => {
    const { client, engine } = await start();
    const request = await trainRequest(store, {
      fields: { objective: Objective.SFT, generatedShards: [] },
      steps: 2,
    });
    const { responses } = await run(client, request);
    expect(responses[1]!.event.value).toMatchObject({
      errorGenerated: 0,
      implicitAccuracy: 0,
      beta: 0,
    });
    expect(engine.log[0]).toBe('session sft float32');
  });

  it('trains on the preference pairs of the encoded shards', async () => {
    const { client, engine } = await start();
    const fields = {
      objective: Objective.DPO,
      generatedShards: [],
      encodedShards: [await encodedShard(store, [0, 1, 2, 3], [1, 3])],
    };
    const seen: number[] = [];
    engine.beforeBatch = async ({ real, generated }) =>
      void seen.push((generated?.data[0] ?? 0) - 0.5 * 100, real.shape[0] ?? 0);
    const request = await trainRequest(store, { fields, steps: 2, batchSize: 2 });
    request.settings!.samplePosterior = false;
    const { responses, error } = await run(client, request);
    expect(error).toBeUndefined();
    // Two micro-batches of one pair a step; scaled by 0.5.
    expect(
      seen.filter((_, i) => i % 2 === 0).every((value) => value === 0.5 || value === 1.5),
    ).toBe(true);
    expect(responses[1]!.event.value).toMatchObject({ beta: 1000, loserScale: 1 });
    expect(engine.log[0]).toBe('session spin_logistic float32');
  });

  it('trains adapters from those of the last iteration, and leaves them beside the whole U-Net and the average', async () => {
    const { client, engine } = await start();
    const request = await trainRequest(store, { steps: 2 });
    const adapter = await store.put(Buffer.from('adapter'), 'application/safetensors');
    request.init!.adapter = adapter;
    const settings = request.settings!;
    Object.assign(settings, { emaDecay: 0.9, emaApart: true });
    settings.lora = create(LoraSettingsSchema, { rank: 4, alpha: 8, targets: ['to_q'] });
    const { responses, error } = await run(client, request);
    expect(error).toBeUndefined();
    expect(engine.log[0]).toBe(
      `session spin_logistic float32 lora 4 on ${await store.localPath(adapter)}`,
    );
    expect(engine.log.slice(1)).toEqual(['export', 'export average']);
    const finished = responses.at(-1)!.event;
    if (finished.case !== 'finished') throw new Error('not finished');
    const { unet, average, adapter: trained, averageAdapter } = finished.value;
    const names = await Promise.all(
      [unet?.weights, trained, average?.weights, averageAdapter].map(async (ref) => [
        ...readSafetensors(await store.get(ref!), 'result').tensors.keys(),
      ]),
    );
    expect(names).toEqual([['weights'], ['adapter'], ['average'], ['average adapter']]);
  });

  it('lowers beta as the pairs come apart, the same after an interruption', async () => {
    const request = async (other: ArtifactStore) => {
      const made = await trainRequest(other);
      made.settings!.autoBetaSlope = 0.2;
      return made;
    };
    const betas = (responses: TrainResponse[]) =>
      responses.flatMap(({ event }) => (event.case === 'step' ? [event.value.beta] : []));
    const { client } = await start();
    const first = await run(client, await request(store), 7);
    const second = await run(client, await request(store));
    const all = [...betas(first.responses).slice(0, 7), ...betas(second.responses)];
    // The fake's margins are 0.005 times the pair's place, from 1, in micro-batches of two.
    expect(all[0]).toBe(1000);
    expect(all.at(-1)).toBeCloseTo(Math.log(4) / 0.0075, 3);
    const other = await openLocalStore(join(root, 'undisturbed'));
    const undisturbed = await start(fakeEngine(), { store: other });
    expect(all.slice(-12)).toEqual(
      betas((await run(undisturbed.client, await request(other))).responses).slice(-12),
    );
  });

  it.each([1, 4, 5, 7, 12, 19])(
    'cancelled after step %i and called again gives the bytes of an undisturbed run',
    async (stopAfter) => {
      const expected = await undisturbed((other) => trainRequest(other));
      const { client, engine } = await start();
      const request = await trainRequest(store);
      const { error } = await run(client, request, stopAfter);
      expect(error).toMatchObject({ code: 'CANCELLED' });
      await expect.poll(() => engine.sessions.every((session) => session.released)).toBe(true);
      const { responses } = await run(client, request);
      const started = responses[0]!.event;
      if (started.case !== 'started') throw new Error('not started');
      expect(started.value.resumedStep).toBeGreaterThanOrEqual(stopAfter);
      expect(weightsOf(responses)).toBe(expected);
    },
  );

  it('killed without warning resumes from the last checkpoint to the same bytes, even past a damaged one', async () => {
    const expected = await undisturbed((other) => trainRequest(other));
    const request = await trainRequest(store);
    for (const damage of [false, true]) {
      const dying = fakeEngine();
      dying.beforeBatch = async ({ step }) => {
        // What a crash looks like from outside: an error, and no checkpoint on the way out.
        if (step === 13) throw new Error('killed');
      };
      const first = await start(dying);
      expect((await run(first.client, request)).error).toMatchObject({
        code: 'INTERNAL',
        message: 'killed',
      });
      await first.lifecycle.shutdown('killed');
      expect(await checkpointSteps()).toEqual(['step-00000005.json', 'step-00000010.json']);
      if (damage)
        await truncate(
          join(await store.checkpointDir('r1/train-spin1'), 'step-00000010.safetensors'),
          10,
        );
      const second = await start();
      const { responses } = await run(second.client, request);
      expect(responses[0]!.event.value).toMatchObject({ resumedStep: damage ? 5 : 10 });
      expect(weightsOf(responses)).toBe(expected);
      await second.lifecycle.shutdown('done');
      await store.deleteResults('r1');
    }
  });

  it('leaves what it would have ended in after judged steps, the same wherever it was stopped', async () => {
    const judged = async (s: ArtifactStore): Promise<TrainRequest> => {
      const request = await trainRequest(s);
      request.settings!.judgeEvery = 6;
      return request;
    };
    const left = async (s: ArtifactStore): Promise<string[]> => {
      const keys = (await s.listResults('r1/train-spin1')).filter((key) => key.includes('/step-'));
      const json = await Promise.all(keys.map((key) => s.getResult(key)));
      return json.map((text) => fromJsonString(TrainFinishedSchema, text!).unet!.weights!.digest);
    };
    const other = await openLocalStore(join(root, 'calm'));
    const calm = await start(fakeEngine(), { store: other });
    const { responses: told } = await run(calm.client, await judged(other));
    await calm.lifecycle.shutdown('done');
    const expected = await left(other);
    expect(
      told.flatMap(({ event }) => (event.case === 'snapshot' ? [event.value.step] : [])),
    ).toEqual([6, 12, 18]);
    expect(new Set([...expected, weightsOf(told)]).size).toBe(4);

    const request = await judged(store);
    // Stopped after a judged step: its checkpoint may be there before what is judged.
    for (const stop of [6, 12, 13]) {
      const { client, lifecycle } = await start();
      expect((await run(client, request, stop)).error).toMatchObject({ code: 'CANCELLED' });
      await lifecycle.shutdown('stopped');
    }
    // What one of them has left is lost: training goes on from before it.
    await store.deleteResults('r1/train-spin1/step-00000012');
    const last = await start();
    const { responses } = await run(last.client, request);
    expect(responses[0]!.event.value).toMatchObject({
      resumedStep: expect.toSatisfy((step: number) => step <= 12) as number,
    });
    expect(weightsOf(responses)).toBe(weightsOf(told));
    expect(await left(store)).toEqual(expected);
  });

  it('resumes on a machine without its folder from the copy in the artifact store, to the same weights', async () => {
    const s3 = await startTestS3();
    try {
      for (const [name, value] of Object.entries(s3.environment)) vi.stubEnv(name, value);
      const expected = await undisturbed(trainRequest);
      const [here, elsewhere] = [
        await openStore(join(root, 'a'), 's3://bucket/runs'),
        await openStore(join(root, 'b'), 's3://bucket/runs'),
      ];
      const request = await trainRequest(here);
      const first = await start(fakeEngine(), { store: here });
      expect((await run(first.client, request, 12)).error).toMatchObject({ code: 'CANCELLED' });
      // Waits for the training to end, and with it for the copy.
      await first.lifecycle.shutdown('moved away');
      const second = await start(fakeEngine(), { store: elsewhere });
      const { responses } = await run(second.client, request);
      expect(responses[0]!.event.value).toMatchObject({
        resumedStep: expect.toSatisfy((step: number) => step >= 12) as number,
      });
      expect(weightsOf(responses)).toBe(expected);
      expect([...s3.objects.keys()].filter((name) => name.includes('/checkpoints/'))).toEqual([]);
    } finally {
      vi.unstubAllEnvs();
      await s3.close();
    }
  });

  it('checkpoints and stops when the process is told to', async () => {
    const engine = fakeEngine();
    const first = await start(engine);
    let waiting = false;
    engine.beforeBatch = async ({ step }, signal) => {
      if (step !== 7) return;
      waiting = true;
      await new Promise((_resolve, reject) =>
        signal.addEventListener(
          'abort',
          () => reject(Object.assign(new Error('cancelled'), { code: 'CANCELLED' })),
          { once: true },
        ),
      );
    };
    const request = await trainRequest(store);
    const running = run(first.client, request);
    await expect.poll(() => waiting).toBe(true);
    await first.lifecycle.shutdown('SIGTERM');
    await running;
    expect(engine.log.at(-1)).toBe('save 7');
    const second = await start();
    const taken = (count: number) => Array.from({ length: count }, (_, at) => ({ step: at + 1 }));
    const { responses } = await run(second.client, request);
    // For a caller that was away when they were told.
    expect(responses[0]!.event.value).toMatchObject({ resumedStep: 7, recent: taken(7) });
    expect(responses.at(-1)!.event.value).toMatchObject({ recent: taken(20) });
    const again = await run(second.client, request);
    expect(again.responses[0]!.event.value).toMatchObject({ recent: taken(20) });
  });

  it.each([
    [false, 'loss is NaN'],
    [true, 'expected a finite loss, got NaN'],
  ])(
    'stops with DIVERGED, naming the step and the kept checkpoint, before anything is applied; errors told with the step: %s',
    async (tellsLater, reason) => {
      const engine = fakeEngine();
      engine.tellsLater = tellsLater;
      engine.lossOf = (step) => (step >= 12 ? Number.NaN : 1);
      const { client } = await start(engine);
      const { error } = await run(client, await trainRequest(store));
      expect(error).toMatchObject({
        code: 'DIVERGED',
        message: `training diverged at step 13: ${reason}; the checkpoint of step 10 is kept`,
      });
      expect(await checkpointSteps()).toEqual(['step-00000005.json', 'step-00000010.json']);
      expect(await store.getResult('r1/train-spin1')).toBeNull();
    },
  );

  /**
   * The run's rollbacks, as [step, scale], and its learning rates by step, the last one of each.
   */
  const seen = (responses: TrainResponse[]) => ({
    back: responses.flatMap(({ event }) =>
      event.case === 'rolledBack' ? [[event.value.step, event.value.learningRateScale]] : [],
    ),
    rates: new Map(
      responses.flatMap(({ event }) =>
        event.case === 'step' ? [[event.value.step, event.value.learningRate] as const] : [],
      ),
    ),
    alarms: responses.flatMap(({ event }) =>
      event.case === 'alarm' ? [[event.value.kind, event.value.step]] : [],
    ),
  });
  const guarded = async (
    onDivergence: OnDivergence,
    maxRollbacks = 3,
    checkpointSteps = 5,
  ): Promise<TrainRequest> => {
    const request = await trainRequest(store, { checkpointSteps });
    Object.assign(request.settings!, { onDivergence, maxRollbacks });
    return request;
  };

  it.each([false, true])(
    'goes back to a good checkpoint at half the learning rate, also after an interruption; errors told with the step: %s',
    async (tellsLater) => {
      const engine = fakeEngine();
      engine.tellsLater = tellsLater;
      // Heals once it has gone back.
      engine.lossOf = (step, scale) => (step >= 12 && scale === 1 ? Number.NaN : 1);
      const { client } = await start(engine);
      const request = await guarded(OnDivergence.ROLLBACK);
      const first = await run(client, request, 7);
      expect(seen(first.responses).back).toEqual([]);
      await expect.poll(() => engine.sessions.every((session) => session.released)).toBe(true);
      const { responses, error } = await run(client, request);
      expect(error).toBeUndefined();
      const { back, rates } = seen(responses);
      expect(back).toEqual([[10, 0.5]]);
      expect(rates.get(11)).toBeCloseTo(0.5 * 1e-3 * (1 - 10 / 20), 12);
      expect(rates.get(20)).toBeCloseTo(0.5 * 1e-3 * (1 - 19 / 20), 12);
    },
  );

  it('remembers after a crash that it has gone back', async () => {
    const engine = fakeEngine();
    engine.lossOf = (step, scale) => (step >= 12 && scale === 1 ? Number.NaN : 1);
    engine.beforeBatch = async ({ step }) => {
      if (engine.log.includes('load 10') && step === 11) throw new Error('killed');
    };
    const first = await start(engine);
    const request = await guarded(OnDivergence.ROLLBACK);
    expect((await run(first.client, request)).error).toMatchObject({ message: 'killed' });
    await first.lifecycle.shutdown('killed');
    const healthy = fakeEngine();
    healthy.lossOf = engine.lossOf;
    const second = await start(healthy);
    const { responses } = await run(second.client, request);
    expect(responses[0]!.event.value).toMatchObject({ resumedStep: 10 });
    expect(seen(responses).back).toEqual([]);
    expect(seen(responses).rates.get(11)).toBeCloseTo(0.5 * 1e-3 * 0.5, 12);
  });

  it('goes back so often and no more, to the start where there is no checkpoint', async () => {
    const engine = fakeEngine();
    engine.lossOf = (step) => (step >= 3 ? Number.NaN : 1);
    const { client } = await start(engine);
    const { responses, error } = await run(client, await guarded(OnDivergence.ROLLBACK, 2));
    expect(seen(responses).back).toEqual([
      [0, 0.5],
      [0, 0.25],
    ]);
    expect(error).toMatchObject({
      code: 'DIVERGED',
      message: expect.stringContaining('at step 4, after 2 rollbacks: loss is NaN') as string,
    });
  });

  it.each([
    [OnDivergence.WARN, [] as number[][], undefined],
    [OnDivergence.STOP, [] as number[][], 'training diverged at step 13: the loss is exactly 0'],
    [OnDivergence.ROLLBACK, [[10, 0.5]], undefined],
  ])('raises alarms and acts as it is told: %s', async (action, back, message) => {
    const engine = fakeEngine();
    engine.lossOf = (step, scale) => (step === 12 && scale === 1 ? 0 : 1);
    const { client } = await start(engine);
    const { responses, error } = await run(client, await guarded(action));
    expect(seen(responses)).toMatchObject({ alarms: [['loss_zero', 13]], back });
    if (message === undefined) expect(error).toBeUndefined();
    else {
      expect(error?.message).toContain(message);
      expect(error?.message).toContain('the checkpoint of step 10 is kept');
    }
  });

  it('says that the disk is full and leaves nothing half-done', async () => {
    const engine = fakeEngine();
    const full = async (): Promise<void> => {
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    };
    engine.beforeSave = full;
    const { client } = await start(engine);
    const { error } = await run(client, await trainRequest(store));
    expect(error).toMatchObject({
      code: 'RESOURCE_EXHAUSTED',
      message: expect.stringContaining(
        'checkpoint of step 5 could not be written: the disk is full',
      ) as string,
    });
    expect(await readdir(await store.checkpointDir('r1/train-spin1'))).toEqual([]);
    const exporting = await run(client, await trainRequest(store, { checkpointSteps: 0 }));
    expect(exporting.error).toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
    expect(await store.getResult('r1/train-spin1')).toBeNull();
    expect(
      (await readdir(join(root, 'store', 'tmp'))).filter((name) => !name.startsWith('.')),
    ).toEqual([]);
  });

  it('keeps the precision of its checkpoint when a new measurement says otherwise', async () => {
    const { client, lifecycle } = await start();
    const request = await trainRequest(store, { precision: Precision.AUTO });
    const first = await run(client, request, 7);
    expect(first.responses[0]!.event.value).toMatchObject({
      precision: Precision.BFLOAT16,
      precisionReason: 'it was faster',
    });
    await lifecycle.shutdown('done');
    await store.deleteResults('r1');
    const other = fakeEngine();
    other.choosePrecision = async () => ({ precision: 'float32', reason: 'another day' });
    const second = await start(other);
    const { responses } = await run(second.client, request);
    expect(responses[0]!.event.value).toMatchObject({
      resumedStep: expect.any(Number) as number,
      precision: Precision.BFLOAT16,
    });
    expect(other.log).toContain('session spin_logistic bfloat16');
  });

  it('refuses to resume from a checkpoint of other settings', async () => {
    const { client } = await start();
    await run(client, await trainRequest(store), 6);
    const changed = await trainRequest(store, { batchSize: 6 });
    await expect
      .poll(async () => (await run(client, changed)).error)
      .toMatchObject({
        code: 'FAILED_PRECONDITION',
        message: expect.stringContaining('batchSize: expected 4, got 6') as string,
      });
  });

  it.each<[Parameters<typeof trainRequest>[1], string]>([
    [{ steps: 0 }, 'settings.steps: expected a number of at least 1, got 0'],
    [
      { fields: { objective: Objective.UNSPECIFIED } },
      'objective: expected spin_logistic, spin_hinge, spin_ipo, dpo or sft, got nothing',
    ],
    [{ fields: { generatedShards: [] } }, 'generated_shards: expected at least one, got none'],
    [{ fields: { key: '' } }, 'key and run_id: expected both, got nothing for one'],
  ])('refuses bad input: %j', async (overrides, message) => {
    const { client } = await start();
    expect((await run(client, await trainRequest(store, overrides))).error).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message,
    });
  });

  it('lets no trainer that lost its lease write a checkpoint or the result', async () => {
    const zombie = fakeEngine();
    let thaw = (): void => undefined;
    let seen: AbortSignal | undefined;
    zombie.beforeBatch = async ({ step, offset }, signal) => {
      if (step !== 7 || offset !== 0) return;
      seen = signal;
      await new Promise<void>((resolve) => (thaw = resolve));
    };
    const one = await start(zombie, { workerId: 'zombie' });
    const request = await trainRequest(store);
    const frozen = run(one.client, request);
    await expect.poll(() => seen).toBeDefined();
    // Someone else takes the lease by force, as if the holder had been asleep for longer than its
    // ttl.
    const leases = (await nats.bus('thief')).kv('leases');
    await leases.put(
      'trainer.r1/train-spin1',
      JSON.stringify({ owner: 'thief', ttlMs: 300, id: 'x' }),
    );
    // The holder notices at its next refresh, a third of the ttl away.
    await expect.poll(() => seen?.aborted, { timeout: 5_000 }).toBe(true);
    thaw();
    expect((await frozen).error).toMatchObject({ code: 'ABORTED' });
    expect(zombie.log.at(-1)).toBe('save 5');
    expect(await store.getResult('r1/train-spin1')).toBeNull();
  });

  it('keeps its steps when the lease is lost for want of the message server alone', async () => {
    const engine = fakeEngine();
    let thaw = (): void => undefined;
    let seen: AbortSignal | undefined;
    engine.beforeBatch = async ({ step, offset }, signal) => {
      if (step !== 7 || offset !== 0 || seen) return;
      seen = signal;
      await new Promise<void>((resolve) => (thaw = resolve));
    };
    const { client } = await start(engine);
    const request = await trainRequest(store);
    const cut = run(client, request);
    await expect.poll(() => seen).toBeDefined();
    process.kill(nats.server.pid, 'SIGSTOP');
    try {
      await expect.poll(() => seen?.aborted, { timeout: 10_000 }).toBe(true);
      thaw();
      expect((await cut).error).toMatchObject({ code: 'ABORTED' });
      expect(engine.log.at(-1)).toMatch(/^save [78]$/);
    } finally {
      process.kill(nats.server.pid, 'SIGCONT');
    }
    const again = await run(client, request);
    const resumedStep = Number(engine.log.findLast((one) => /^save [78]$/.test(one))?.slice(5));
    expect(again.responses[0]?.event.value).toMatchObject({ resumedStep });
    expect(weightsOf(again.responses)).toBe(await undisturbed((s) => trainRequest(s)));
  });

  it('refuses a model whose files are not those that the run began with, and goes on with them', async () => {
    const folder = join(root, 'unet');
    await mkdir(folder);
    const [config, weights] = ['config.json', 'diffusion_pytorch_model.safetensors'];
    await writeFile(join(folder, config), '{}');
    await writeFile(join(folder, weights), 'weights');
    const init = create(UnetRefSchema, { name: 'base', path: folder });
    const request = { ...(await trainRequest(store)), init };
    const { client } = await start();
    await run(client, request, 6);
    await writeFile(join(folder, weights), 'other weights');
    expect((await run(client, request)).error).toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringContaining(
        `${join(folder, weights)}: changed since this run first read it (unet ${folder}): expected`,
      ) as string,
    });
    await writeFile(join(folder, weights), 'weights');
    const again = await run(client, request);
    expect(again.error).toBeUndefined();
    const [started] = again.responses;
    expect(started?.event.case === 'started' && started.event.value.resumedStep).toBeGreaterThan(5);
  });
});

describe('training beside drawing', () => {
  const overrides = { steps: 12, batchSize: 2, checkpointSteps: 3 };
  const step = (responses: TrainResponse[]): number =>
    Math.max(
      0,
      ...responses.flatMap(({ event }) => (event.case === 'step' ? [event.value.step] : [])),
    );

  async function undisturbedWhole(options: { copies?: number; lacking?: number[] }) {
    return undisturbed(async (other) => (await drawnInOrder(other, overrides, options)).whole);
  }

  it.each([
    ['an image of each row', {}],
    ['two, of which each has its epoch', { copies: 2 }],
    ['three, of which some were not drawn', { copies: 3, lacking: [5] }],
    ['an image of each row but some', { lacking: [0, 2] }],
  ])('reads what it would read with all images there: %s', async (_name, options) => {
    const { client } = await start();
    const { keys, draw, streamed } = await drawnInOrder(store, overrides, options);
    const call = run(client, streamed);
    // The last one first: what is read follows the order of need.
    for (const n of [...keys.keys()].reverse()) await draw(n);
    const { responses, error } = await call;
    expect(error).toBeUndefined();
    expect(weightsOf(responses)).toBe(await undisturbedWhole(options));
  });

  it('takes the steps whose images are there, says what it waits for, and ends in the same bytes when it is stopped there', async () => {
    const { client } = await start();
    const { draw, streamed, whole } = await drawnInOrder(store, overrides);
    await draw(0, 1, 3);
    const waiting = new AbortController();
    const responses: TrainResponse[] = [];
    const call = async (): Promise<void> => {
      for await (const response of client.train(streamed, { signal: waiting.signal })) {
        responses.push(response);
        if (response.event.case === 'waiting') waiting.abort();
      }
    };
    await expect(call()).rejects.toMatchObject({ code: 'CANCELLED' });
    // Four images are two steps, and the third shard is not there.
    expect(step(responses)).toBe(2);
    expect(responses.at(-1)?.event.value).toMatchObject({ step: 3, key: 'r1/sample-base/0002' });
    await expect.poll(() => checkpointSteps()).toEqual(['step-00000002.json']);
    await draw(2);
    const second = await run(client, whole, 5);
    expect(step(second.responses)).toBe(5);
    expect(second.responses[0]?.event.value).toMatchObject({ resumedStep: 2 });
    const rest = await run(client, {
      ...streamed,
      generatedShards: whole.generatedShards.slice(0, 1),
      toCome: { ...streamed.toCome, keys: streamed.toCome.keys.slice(1) },
    });
    const [started] = rest.responses;
    if (started?.event.case !== 'started') throw new Error('not started');
    expect(started.event.value.resumedStep).toBeGreaterThanOrEqual(5);
    expect(weightsOf(rest.responses)).toBe(await undisturbedWhole({}));
  });

  it('does not go on from a checkpoint of other images, and waits for those that it was made with', async () => {
    const { client } = await start();
    const { draw, streamed, whole, shards, keys } = await drawnInOrder(store, overrides);
    await draw(0, 1, 2);
    await run(client, streamed, 2);
    const others = { ...whole, generatedShards: shards.toReversed() };
    expect((await run(client, others)).error).toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringContaining('made with other settings: generatedShards') as string,
    });
    await store.deleteResults(keys[0]!);
    expect((await run(client, streamed)).error).toMatchObject({
      code: 'UNAVAILABLE',
      retryable: true,
    });
    await draw(0, 3);
    expect(weightsOf((await run(client, streamed)).responses)).toBe(await undisturbedWhole({}));
  });

  it('takes no image of a deleted run', async () => {
    const { client } = await start();
    const { draw, streamed } = await drawnInOrder(store, overrides);
    await draw(0, 1, 2, 3);
    const controller = new AbortController();
    for await (const { event } of client.train(
      { ...streamed, runCreatedMs: 5n },
      { signal: controller.signal },
    )) {
      expect(event.case).not.toBe('step');
      if (event.case === 'waiting') break;
    }
  });

  it('refuses shards to come of images that are not drawn as they are read', async () => {
    const { client } = await start();
    const { streamed } = await drawnInOrder(store, overrides);
    const { error } = await run(client, { ...streamed, drawnAsRead: false });
    expect(error?.message).toContain(
      'to_come: expected images of an opponent that are drawn_as_read',
    );
    const nothing = { ...streamed, toCome: { ...streamed.toCome, copies: 0 } };
    expect((await run(client, nothing)).error?.message).toContain('got 2, 0 and 1');
  });
});
