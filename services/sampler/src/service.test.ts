import { create, fromJsonString } from '@bufbuild/protobuf';
import {
  checkHealth,
  createClient,
  Lifecycle,
  readSafetensors,
  asFloat32,
  asNumbers,
} from '@spindle/kit';
import { openLocalStore, type ArtifactStore, type Bus } from '@spindle/mesh';
import { logger } from '@spindle/kit/testing';
import { startTestNats, type TestNats } from '@spindle/mesh/testing';
import {
  JobResultSchema,
  JobSchema,
  Precision,
  SamplerService,
  type Event,
  type Job,
  type JobResult,
  type PromptItem,
} from '@spindle/proto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startSampler } from './service.js';
import { fakeEngine, type FakeEngine } from './testing/fake-engine.js';

let nats: TestNats;
let bus: Bus;
let store: ArtifactStore;
let root: string;
const lifecycles: Lifecycle[] = [];

beforeEach(async () => {
  nats = await startTestNats();
  bus = await nats.provisioned();
  root = await mkdtemp(join(tmpdir(), 'sampler-'));
  store = await openLocalStore(root);
});

afterEach(async () => {
  await Promise.all(lifecycles.splice(0).map((lifecycle) => lifecycle.shutdown('test over')));
  await nats.close();
  await rm(root, { recursive: true, force: true });
});

async function start(
  workerId = 'w1',
  engine: FakeEngine = fakeEngine(),
  { takesJobs = true, drainSeconds = 0 } = {},
) {
  const lifecycle = new Lifecycle();
  lifecycles.push(lifecycle);
  const own = await nats.bus(workerId);
  const portFile = join(root, `${workerId}.port`);
  const port = await startSampler(lifecycle, {
    engine,
    store,
    bus: own,
    logger,
    workerId,
    address: '127.0.0.1:0',
    portFile,
    takesJobs,
    drainSeconds,
    token: undefined,
  });
  return { lifecycle, engine, portFile, port };
}

const item = (index: number, prompt: string, seed = 7n): Partial<PromptItem> => ({
  index,
  prompt,
  seed,
});

function sampleJob(key: string, overrides: object = {}): Job {
  return create(JobSchema, {
    key,
    runId: 'r1',
    work: {
      case: 'sample',
      value: {
        pipelinePath: '/p',
        unet: { name: 'base', path: '/p/unet' },
        sampling: { steps: 20, guidanceScale: 3 },
        items: [item(4, 'a red circle') as PromptItem, item(5, 'a star') as PromptItem],
        wantLatents: true,
        wantImages: true,
        precision: Precision.FLOAT32,
        ...overrides,
      },
    },
  });
}

async function encodeJob(
  key: string,
  rows: { content: string; text: string; rejected?: string }[],
): Promise<Job> {
  const lines = await Promise.all(
    rows.map(async ({ content, text, rejected }, i) => {
      const file = join(root, `${i}.img`);
      await writeFile(file, content);
      if (rejected === undefined) return JSON.stringify({ file, text });
      await writeFile(`${file}.rejected`, rejected);
      return JSON.stringify({ file, text, rejected: { kind: 'file', file: `${file}.rejected` } });
    }),
  );
  const manifest = await store.put(Buffer.from(lines.join('\n')), 'application/jsonl');
  return create(JobSchema, {
    key,
    runId: 'r1',
    work: {
      case: 'encode',
      value: {
        manifest,
        start: 0,
        count: rows.length,
        pipelinePath: '/p',
        resolution: 8,
        precision: Precision.FLOAT32,
      },
    },
  });
}

async function resultOf(key: string): Promise<JobResult> {
  await expect.poll(() => store.getResult(key), { timeout: 10_000 }).not.toBeNull();
  return fromJsonString(JobResultSchema, (await store.getResult(key))!);
}

async function eventsUntil(done: (events: Event[]) => boolean): Promise<Event[]> {
  const events: Event[] = [];
  const controller = new AbortController();
  for await (const { event } of bus.events('r1', { signal: controller.signal })) {
    events.push(event);
    if (done(events)) controller.abort();
  }
  return events;
}

describe('encode jobs', () => {
  it('leave a shard, name the broken image and count the captions that were cut', async () => {
    await start();
    const rows = [
      { content: 'A', text: 'short' },
      { content: 'broken', text: 'x' },
      { content: 'C', text: 'a caption that is much too long' },
    ];
    await bus.publishJob(await encodeJob('r1/encode/0000', rows), 0);
    const { result, worker } = await resultOf('r1/encode/0000');
    if (result.case !== 'encode') throw new Error('expected an encode result');
    expect(worker).toBe('w1');
    expect(result.value).toMatchObject({ count: 2, truncatedCaptions: 1 });
    expect(result.value.rejected).toMatchObject([
      {
        index: 1,
        file: join(root, '1.img'),
        reason: expect.stringContaining('does not decode') as string,
      },
    ]);
    const { tensors } = readSafetensors(await store.get(result.value.shard!), 'shard');
    expect(asNumbers(tensors.get('index')!)).toEqual([0, 2]);
    expect(tensors.get('mean')!.shape).toEqual([2, 1, 2, 2]);
    expect(asFloat32(tensors.get('mean')!)[0]).toBeCloseTo(0.65);
    expect(asFloat32(tensors.get('logvar')!)[4]).toBe(-67);
    expect(tensors.get('text')!.shape).toEqual([2, 3, 2]);
    const events = await eventsUntil((list) => list.length > 0);
    expect(events[0]!.fact).toMatchObject({
      case: 'jobDone',
      value: { key: 'r1/encode/0000', worker: 'w1', items: 2 },
    });
  });

  it('leave the rejected images of preference pairs beside the others, and a row out when either image is broken', async () => {
    await start();
    const rows = [
      { content: 'A', text: 'one' },
      { content: 'B', text: 'two', rejected: 'E' },
      { content: 'C', text: 'three', rejected: 'broken' },
      { content: 'D', text: 'four', rejected: 'A' },
    ];
    await bus.publishJob(await encodeJob('r1/encode/0000', rows), 0);
    const { result } = await resultOf('r1/encode/0000');
    if (result.case !== 'encode') throw new Error('expected an encode result');
    expect(result.value.rejected).toMatchObject([{ index: 2, file: join(root, '2.img.rejected') }]);
    const { tensors } = readSafetensors(await store.get(result.value.shard!), 'shard');
    expect(asNumbers(tensors.get('index')!)).toEqual([0, 1, 3]);
    expect(asNumbers(tensors.get('rejected_index')!)).toEqual([1, 3]);
    expect(tensors.get('rejected_mean')!.shape).toEqual([2, 1, 2, 2]);
    // The fake's mean is the file's first letter: A again for the last row's rejected one.
    expect(asFloat32(tensors.get('rejected_mean')!)[4]).toBe(asFloat32(tensors.get('mean')!)[0]);
    expect(asFloat32(tensors.get('rejected_mean')!)[0]).toBeCloseTo(0.69);
    expect(tensors.get('rejected_logvar')!.shape).toEqual([2, 1, 2, 2]);
  });

  it('of a model that is told of sizes and crops leave those of every image, and its pooled text', async () => {
    const engine = fakeEngine();
    engine.pooledWidth = 5;
    await start('w1', engine);
    const rows = [
      { content: 'a', text: 'red' },
      { content: 'broken', text: 'x' },
      { content: 'b', text: 'a star' },
    ];
    await bus.publishJob(await encodeJob('r1/encode/0000', rows), 0);
    const { result } = await resultOf('r1/encode/0000');
    if (result.case !== 'encode') throw new Error('expected an encode result');
    const { tensors } = readSafetensors(await store.get(result.value.shard!), 'shard');
    expect(tensors.get('pooled')!.shape).toEqual([2, 5]);
    expect([...asFloat32(tensors.get('pooled')!)]).toEqual([3, 3, 3, 3, 3, 6, 6, 6, 6, 6]);
    expect([...asFloat32(tensors.get('time_ids')!)]).toEqual([
      30, 20, 1, 2, 8, 8, 30, 20, 1, 2, 8, 8,
    ]);
  });

  it('leave an empty shard when every image is broken', async () => {
    await start();
    await bus.publishJob(await encodeJob('r1/encode/0000', [{ content: 'broken', text: 'x' }]), 0);
    const { result } = await resultOf('r1/encode/0000');
    if (result.case !== 'encode') throw new Error('expected an encode result');
    expect(result.value.count).toBe(0);
    const { tensors } = readSafetensors(await store.get(result.value.shard!), 'shard');
    expect(tensors.get('mean')!.shape).toEqual([0, 1, 2, 2]);
  });
});

describe('sample jobs', () => {
  it('leave latents and images', async () => {
    const { engine } = await start();
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 0);
    const { result } = await resultOf('r1/sample-base/0000');
    if (result.case !== 'sample') throw new Error('expected a sample result');
    expect(result.value.images).toHaveLength(2);
    const { tensors } = readSafetensors(await store.get(result.value.latents!), 'latents');
    expect(asNumbers(tensors.get('index')!)).toEqual([4, 5]);
    expect((await store.get(result.value.images[1]!)).toString()).toMatch(/^png /);
    expect(engine.log).toEqual(['pipeline /p float32', 'unet /p/unet float32', 'draw 2']);
  });

  it('find the texts of their rows where they lie: in the manifest, or among the prompts', async () => {
    const { engine } = await start();
    const texts = ['a red circle', 'a green square', 'a blue star'];
    const manifest = await store.put(
      Buffer.from(texts.map((text) => `${JSON.stringify({ file: '/x', text })}\n`).join('')),
      'application/jsonl',
    );
    const prompts = await store.put(
      Buffer.from(JSON.stringify([texts[0], { prompt: texts[1], category: 'c' }, texts[2]])),
      'application/json',
    );
    const items = [2, 0, 0].map((index, n) => item(index, texts[index] ?? '', BigInt(n)));
    const rows = [2, 0, 0].map((index, n) => ({ index, seed: BigInt(n) }));
    const drawn = async (key: string, fields: object) => {
      await bus.publishJob(sampleJob(key, fields), 0);
      const { result } = await resultOf(key);
      return result;
    };
    const expected = await drawn('r1/sample-base/0000', { items });
    const sources = [
      { case: 'manifest', value: manifest },
      { case: 'prompts', value: prompts },
    ];
    for (const [n, source] of sources.entries())
      expect(await drawn(`r1/sample-base/000${n + 1}`, { items: [], texts: source, rows })).toEqual(
        expected,
      );
    expect(engine.log.filter((line) => line.startsWith('draw'))).toEqual(Array(3).fill('draw 3'));
  });

  it.each([
    ['without a row', [], true, 'sample.rows: expected at least one, got none'],
    [
      'of a prompt that is not there',
      [{ index: 0 }, { index: 7 }],
      true,
      'sample.rows[1].index: expected one of 1 texts, got 7',
    ],
    [
      'that say not where the texts lie',
      [{ index: 0 }],
      false,
      'sample.texts: expected a manifest or prompts, got nothing',
    ],
  ])('%s are dead-lettered at once, by name', async (_, rows, named, reason) => {
    await start();
    const value = await store.put(Buffer.from('["one"]'), 'application/json');
    const job = sampleJob('r1/sample-base/0000', {
      items: [],
      rows,
      ...(named && { texts: { case: 'prompts', value } }),
    });
    await bus.publishJob(job, 0);
    await expect
      .poll(() => bus.deadLetters('r1'), { timeout: 10_000 })
      .toMatchObject([{ reason, attempts: 1 }]);
  });

  it('done twice leave the same bytes and are drawn once', async () => {
    const first = await start('w1');
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 0);
    const before = await resultOf('r1/sample-base/0000');
    await expect
      .poll(() => first.engine.log.filter((line) => line.startsWith('draw')), { timeout: 10_000 })
      .toEqual(['draw 2']);
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 1);
    await expect
      .poll(async () => (await bus.queueDepths()).sample, { timeout: 10_000 })
      .toMatchObject({ pending: 0, inFlight: 0 });
    expect(first.engine.log.filter((line) => line.startsWith('draw'))).toHaveLength(1);
    await store.deleteResults('r1/sample-base');
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 2);
    const after = await resultOf('r1/sample-base/0000');
    expect(after.result).toEqual(before.result);
  });

  it('draw again when a blob of the stored result is gone', async () => {
    const { engine } = await start();
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 0);
    const { result } = await resultOf('r1/sample-base/0000');
    if (result.case !== 'sample') throw new Error('expected a sample result');
    await rm(await store.localPath(result.value.latents!));
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 1);
    await expect.poll(() => store.has(result.value.latents!), { timeout: 10_000 }).toBe(true);
    expect(engine.log.filter((line) => line.startsWith('draw'))).toHaveLength(2);
  });

  it('are dead-lettered at once, with the reason, when they cannot succeed', async () => {
    await start();
    await bus.publishJob(sampleJob('r1/sample-base/0009', { pipelinePath: '/missing' }), 0);
    await expect
      .poll(() => bus.deadLetters('r1'), { timeout: 10_000 })
      .toMatchObject([
        {
          key: 'r1/sample-base/0009',
          reason: expect.stringContaining('/missing: expected a pipeline folder') as string,
          attempts: 1,
        },
      ]);
    expect(await store.getResult('r1/sample-base/0009')).toBeNull();
  });

  it('go to another worker when the one that holds them is told to stop', async () => {
    const slow = fakeEngine();
    slow.hang = true;
    const { lifecycle, portFile } = await start('w1', slow);
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 0);
    await expect.poll(() => slow.log, { timeout: 10_000 }).toContain('draw 2');
    await lifecycle.shutdown('SIGTERM');
    expect(slow.log).toContain('cancelled');
    await expect(readFile(portFile)).rejects.toThrow(/ENOENT/);
    await start('w2');
    expect((await resultOf('r1/sample-base/0000')).worker).toBe('w2');
    expect(await bus.deadLetters('r1')).toEqual([]);
  });

  it('in hand end before a worker goes that has the time', async () => {
    let goOn = (): void => undefined;
    const mayEnd = new Promise<void>((resolve) => (goOn = resolve));
    const slow = fakeEngine();
    const { loadPipeline } = slow;
    slow.loadPipeline = async (...given) => {
      await mayEnd;
      return loadPipeline.call(slow, ...given);
    };
    const { lifecycle } = await start('w1', slow, { drainSeconds: 30 });
    await bus.publishJob(sampleJob('r1/sample-base/0000'), 0);
    await bus.publishJob(sampleJob('r1/sample-base/0001'), 0);
    await expect.poll(async () => (await bus.queueDepths()).sample.inFlight).toBe(1);
    const gone = lifecycle.shutdown('SIGTERM');
    goOn();
    await gone;
    expect((await resultOf('r1/sample-base/0000')).worker).toBe('w1');
    expect((await bus.queueDepths()).sample).toMatchObject({ pending: 1, inFlight: 0 });
  });

  it('of an automatic precision keep the first measurement for the whole run', async () => {
    const [first, second] = [fakeEngine(), fakeEngine()];
    second.choosePrecision = async () => ({ precision: 'float32', reason: 'another day' });
    const one = await start('w1', first);
    await bus.publishJob(sampleJob('r1/sample-base/0000', { precision: Precision.AUTO }), 0);
    await resultOf('r1/sample-base/0000');
    await one.lifecycle.shutdown('done');
    await start('w2', second);
    await bus.publishJob(sampleJob('r1/sample-base/0001', { precision: Precision.AUTO }), 0);
    await resultOf('r1/sample-base/0001');
    expect(second.log).toContain('unet /p/unet bfloat16');
    expect(JSON.parse((await store.getResult('r1/precision'))!)).toMatchObject({
      precision: 'bfloat16',
    });
  });

  it('draw with LoRA files on top of the U-Net and the text encoders, each in its own cache', async () => {
    const { engine } = await start();
    const lora = join(root, 'style.safetensors');
    await writeFile(lora, 'lora');
    const key = (name: string): string => `r1/eval-sample-${name}/0000`;
    const jobs = { plain: [], styled: [{ path: lora }], half: [{ path: lora, scale: 0.5 }] };
    for (const [name, files] of Object.entries(jobs)) {
      await bus.publishJob(sampleJob(key(name), { lora: files }), 0);
      await resultOf(key(name));
    }
    const loaded = engine.log.filter((line) => /^(pipeline|unet) /.test(line));
    expect(loaded).toEqual([
      'pipeline /p float32',
      'unet /p/unet float32',
      'pipeline /p + style.safetensors:1 float32',
      'unet /p/unet + style.safetensors:1 float32',
      'pipeline /p + style.safetensors:0.5 float32',
      'unet /p/unet + style.safetensors:0.5 float32',
    ]);
  });

  it('with a LoRA file that has changed since the run first read it are refused by name', async () => {
    await start();
    const path = join(root, 'style.safetensors');
    await writeFile(path, 'lora');
    await bus.publishJob(sampleJob('r1/a/0000', { lora: [{ path }] }), 0);
    await resultOf('r1/a/0000');
    await writeFile(path, 'other');
    const missing = [{ path: join(root, 'none.safetensors') }];
    await bus.publishJob(sampleJob('r1/c/0000', { lora: missing }), 0);
    await expect
      .poll(() => bus.deadLetters('r1'), { timeout: 10_000 })
      .toMatchObject([{ reason: expect.stringContaining('got no such file') as string }]);
    await bus.publishJob(sampleJob('r1/b/0000', { lora: [{ path }] }), 0);
    await expect
      .poll(() => bus.deadLetters('r1'), { timeout: 10_000 })
      .toMatchObject([
        { key: 'r1/c/0000' },
        {
          key: 'r1/b/0000',
          reason: expect.stringContaining(`${path}: changed since this run`) as string,
        },
      ]);
    expect(await store.getResult('r1/b/0000')).toBeNull();
  });

  it('of a new iteration push the oldest U-Net out of memory', async () => {
    const { engine } = await start();
    const ref = async (text: string) => store.put(Buffer.from(text), 'application/octet-stream');
    const config = await ref('{}');
    for (const name of ['spin1', 'spin2', 'spin3']) {
      await bus.publishJob(
        sampleJob(`r1/sample-${name}/0000`, {
          unet: { name, path: '', config, weights: await ref(name) },
        }),
        0,
      );
      await resultOf(`r1/sample-${name}/0000`);
    }
    expect(engine.log.filter((line) => line.startsWith('free unet'))).toEqual([
      expect.stringContaining('spin1'),
    ]);
    expect(engine.log.filter((line) => line.startsWith('pipeline'))).toHaveLength(1);
  });
});

describe('SamplerService', () => {
  it('is alive and not ready while the message server is away', async () => {
    const { port } = await start();
    const address = `127.0.0.1:${port}`;
    await nats.server.stop();
    await expect.poll(() => checkHealth(address, 2_000)).toBe(false);
    expect(await checkHealth(address, 2_000, 'live')).toBe(true);
  });

  it('answers calls and leaves the queue to others where it takes no jobs', async () => {
    const { port } = await start('inspector', fakeEngine(), { takesJobs: false });
    await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
    const client = createClient(SamplerService, `127.0.0.1:${port}`);
    try {
      expect((await client.inspectModel({ path: '/p' })).kind).toBe('StableDiffusionPipeline');
    } finally {
      client.close();
    }
    expect((await bus.queueDepths()).sample).toMatchObject({ pending: 1, inFlight: 0 });
    await start('worker');
    await expect.poll(async () => (await bus.queueDepths()).sample.pending).toBe(0);
  });

  it('answers, is healthy and says its port', async () => {
    const engine = fakeEngine();
    const { port, portFile } = await start('w1', engine);
    const address = `127.0.0.1:${port}`;
    expect(Number(await readFile(portFile, 'utf8'))).toBe(port);
    expect(await checkHealth(address, 2_000)).toBe(true);
    expect(await checkHealth(address, 2_000, 'live')).toBe(true);
    const client = createClient(SamplerService, address);
    try {
      expect(await client.inspectModel({ path: '/p' })).toMatchObject({
        kind: 'StableDiffusionPipeline',
        unetParameters: 7n,
        textTokens: 3,
        warnings: ['w'],
      });
      await client.inspectModel({
        path: '/p',
        sampling: { scheduler: 'DDIMScheduler', schedulerOverridesJson: '{"a":1}', steps: 7 },
      });
      expect(engine.log).toContain('check DDIMScheduler 7 {"a":1}');
      await expect(client.inspectModel({ path: '/p', sampling: { eta: 2 } })).rejects.toMatchObject(
        {
          code: 'INVALID_ARGUMENT',
          message: 'sampling.eta: expected a number from 0 to 1, got 2',
        },
      );
      await expect(client.inspectModel({ path: '/missing' })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('/missing/model_index.json') as string,
      });
      const { images, phases } = await client.sample({
        pipelinePath: '/p',
        items: [item(0, 'a', 1n) as PromptItem],
        precision: Precision.FLOAT32,
      });
      expect(images).toHaveLength(1);
      expect(phases.map((phase) => phase.name)).toEqual(['unet_steps', 'vae_decode']);
      expect(await client.getWorker({})).toMatchObject({
        workerId: 'w1',
        backend: 'fake',
        jobKey: '',
      });
      await expect(client.sample({ pipelinePath: '/p' })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: 'items: expected at least one prompt, got none',
      });
    } finally {
      client.close();
    }
  });

  it('stops drawing when the caller gives up', async () => {
    const engine = fakeEngine();
    engine.hang = true;
    const { port } = await start('w1', engine);
    const client = createClient(SamplerService, `127.0.0.1:${port}`);
    const controller = new AbortController();
    const call = client.sample(
      { pipelinePath: '/p', items: [item(0, 'a') as PromptItem], precision: Precision.FLOAT32 },
      { signal: controller.signal },
    );
    await expect.poll(() => engine.log).toContain('draw 1');
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
    await expect.poll(() => engine.log).toContain('cancelled');
    client.close();
  });

  it('shows itself among the workers', async () => {
    const { lifecycle } = await start();
    const kv = bus.kv('workers');
    await expect
      .poll(async () => JSON.parse((await kv.get('sampler.w1'))?.value ?? '{}') as object)
      .toMatchObject({ kind: 'sampler', worker: 'w1', job: '' });
    await lifecycle.shutdown('done');
    expect(await kv.get('sampler.w1')).toBeNull();
  });
});
