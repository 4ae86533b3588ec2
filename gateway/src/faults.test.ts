/** The gateway beside damaged files and a message server that goes away. */
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { fromJsonString } from '@bufbuild/protobuf';
import { sealed, SpindleError, unsealed } from '@spindle/kit';
import { JobResultSchema, RunStatus, type ArtifactRef, type Job, type Run } from '@spindle/proto';
import type { FakeBehaviour } from './testing/fakes.js';
import { workersLeave } from './orchestrator/workers-leave.js';
import { startHarness, type Harness } from './testing/harness.js';

let harness: Harness | undefined;
afterEach(async () => {
  await harness?.stop();
  harness = undefined;
});

async function start(behaviour: FakeBehaviour = {}): Promise<Harness> {
  harness = await startHarness(behaviour);
  return harness;
}

it('lists runs whose records are damaged, with what is wrong, and goes on with the others', async () => {
  const h = await start({ stepMs: 10 });
  await h.create();
  const text = await readFile(join(h.root, 'r1', 'run.json'), 'utf8');
  const json = unsealed(text, 'r1');
  const plan = /"plan":\{/;
  const damaged: Record<string, [string, RegExp]> = {
    stray: ['{"schemaVersion":1}', /expected/],
    'no-plan': [
      sealed(json.replaceAll('"r1"', '"no-plan"').replace(plan, '"plam":{')),
      /state\.plan/,
    ],
    'no-state': [json.replaceAll('"r1"', '"no-state"').replace('"state"', '"stave"'), /state/],
    flipped: [text.replace('"resolution":6', '"resolution":7'), /it is damaged/],
    copied: [text, /runId: expected "copied", got "r1"/],
    empty: ['', /do not parse/],
  };
  for (const [name, [record]] of Object.entries(damaged)) {
    await mkdir(join(h.root, name));
    await writeFile(join(h.root, name, 'run.json'), record);
  }
  // Its record is lost in both places; a folder without a config is no run's.
  await mkdir(join(h.root, 'no-record'));
  await writeFile(join(h.root, 'no-record', 'config.json'), '{}');
  await mkdir(join(h.root, 'no-run'));
  // As a disk that does not give it.
  await mkdir(join(h.root, 'no-answer', 'run.json'), { recursive: true });
  // In the bucket alone, and there beside a file that is whole.
  await h.bus.kv('runs').put('bucket-only', '{"schemaVersion":1,"state":{}}');
  await h.gateway.stop();
  await h.bus.kv('runs').put('r1', text.slice(0, -20));
  await h.restartGateway();
  const { runs } = await h.client.listRuns({});
  const unreadable = new Map(
    runs.filter((run) => run.status === RunStatus.UNREADABLE).map((run) => [run.runId, run.reason]),
  );
  expect([...unreadable.keys()].sort()).toEqual(
    [...Object.keys(damaged), 'bucket-only', 'no-answer', 'no-record'].sort(),
  );
  expect(unreadable.get('no-answer')).toMatch('run.json: EISDIR');
  expect(unreadable.get('no-record')).toMatch("run.json: expected the run's record, got no such");
  for (const [name, [, reason]] of Object.entries(damaged))
    expect(unreadable.get(name)).toMatch(reason);
  await expect(h.client.getRun({ runId: 'stray' })).rejects.toThrow('run "stray" is unreadable: ');
  await expect(h.create({}, 'stray')).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  const address = `http://127.0.0.1:${h.gateway.httpPort}/api/runs`;
  const page = (await (await fetch(address)).json()) as { runs: Run[] };
  expect(page.runs.map(({ runId }) => runId)).toContain('no-plan');
  expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
});

it('keeps a watch open while NATS is away for longer than the lease, and says that it waits', async () => {
  const h = await start({ stepMs: 50 });
  await h.create();
  let last: Run | undefined;
  const controller = new AbortController();
  const watching = (async () => {
    const { signal } = controller;
    for await (const { run } of h.client.watchRun({ runId: 'r1' }, { signal })) last = run;
  })();
  const page = new AbortController();
  const address = `http://127.0.0.1:${h.gateway.httpPort}/api/runs`;
  const events = await fetch(`${address}/r1/events`, { signal: page.signal });
  await expect.poll(() => last?.status, { timeout: 10_000 }).toBe(RunStatus.RUNNING);
  const revive = await h.killNats();
  await expect.poll(() => h.gateway.orchestrator.ready, { timeout: 20_000 }).toBe(false);
  await expect(h.client.listRuns({})).rejects.toThrow('waiting for NATS');
  expect((await fetch(address)).status).toBe(503);
  // Several turns of the watch's and the page's timers.
  const lost = performance.now();
  await expect.poll(() => performance.now() - lost, { timeout: 5_000 }).toBeGreaterThan(1_500);
  await revive();
  await watching;
  expect(last?.status).toBe(RunStatus.SUCCEEDED);
  // The page's stream belongs to no driver: it tells of the run as it is now.
  let told = '';
  const decoder = new TextDecoder();
  for await (const piece of events.body ?? []) {
    told += decoder.decode(piece as Uint8Array);
    if (told.includes('RUN_STATUS_SUCCEEDED')) break;
  }
  page.abort();
  controller.abort();
});

/** Digests of the first images that the base has drawn. */
async function drawn(h: Harness, runId: string): Promise<string[]> {
  const json = await h.store.getResult(`${runId}/eval-sample-base/0000`);
  const { result } = fromJsonString(JobResultSchema, json ?? '');
  return result.case === 'sample' ? result.value.images.map(({ digest }) => digest) : [];
}

/** A worker's hand that closes around one job of a run, and opens when it is told to. */
function holding(key: string) {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  const hand = { isFull: false, open };
  const onJob = async (job: { key: string }): Promise<void> => {
    if (job.key !== key || hand.isFull) return;
    hand.isFull = true;
    await opened;
  };
  return { hand, onJob };
}

it("takes nothing of a deleted run for its own: neither a late result nor a late worker's failure", async () => {
  for (const ends of ['done', 'failed']) {
    const { hand, onJob } = holding('r1/eval-sample-base/0000');
    const h = await start({
      onJob: async (job) => {
        const isHeld = job.key === 'r1/eval-sample-base/0000' && !hand.isFull;
        await onJob(job);
        if (isHeld && ends === 'failed')
          throw new SpindleError('INVALID_ARGUMENT', 'the folder of the old run is gone');
      },
    });
    await h.create({ seed: 7 }, 'calm');
    await h.finished('calm');
    await h.create({ seed: 1 });
    await expect.poll(() => hand.isFull, { timeout: 20_000 }).toBe(true);
    await h.client.cancelRun({ runId: 'r1' });
    await h.client.deleteRun({ runId: 'r1' });
    await h.create({ seed: 7 });
    hand.open();
    const run = await h.finished('r1');
    expect([run.reason, run.status]).toEqual(['', RunStatus.SUCCEEDED]);
    expect(await drawn(h, 'r1')).toEqual(await drawn(h, 'calm'));
    await h.stop();
    harness = undefined;
  }
}, 90_000); // four runs

it('deletes a run again whose deletion failed half-way', async () => {
  const h = await start();
  await h.create();
  await h.finished('r1');
  const full = new SpindleError('RESOURCE_EXHAUSTED', 'the disk is full');
  const failing = vi.spyOn(h.store, 'deleteCheckpoints').mockRejectedValueOnce(full);
  await expect(h.client.deleteRun({ runId: 'r1' })).rejects.toThrow('the disk is full');
  expect((await h.client.listRuns({})).runs.map(({ runId }) => runId)).toEqual(['r1']);
  await h.client.deleteRun({ runId: 'r1' });
  expect((await h.client.listRuns({})).runs).toEqual([]);
  expect(failing).toHaveBeenCalledTimes(2);
});

it('waits with deleting a run until no worker is at it, and names one that stays', async () => {
  const h = await start();
  const workers = h.bus.kv('workers');
  const beat = (job: string) => workers.put('sampler.w1', JSON.stringify({ worker: 'w1', job }));
  await beat('r1/encode/0000');
  await expect(workersLeave('r1', h.bus, 0)).rejects.toThrow(
    'run "r1" cannot be deleted yet: worker w1 is still at r1/encode/0000',
  );
  await workersLeave('r', h.bus, 0);
  const left = workersLeave('r1', h.bus, 60_000);
  await beat('r2/encode/0000');
  await left;
});

/** One byte of a stored blob turns over; then it is read as a worker reads it. */
async function damageAndRead(h: Harness, ref: ArtifactRef): Promise<void> {
  const path = await h.store.localPath(ref);
  await chmod(path, 0o644);
  await writeFile(path, 'damaged');
  await h.store.get(ref);
}

async function unetOf(h: Harness, runId: string): Promise<string> {
  const unet = join(h.root, runId, 'iterations/2/unet/diffusion_pytorch_model.safetensors');
  return readFile(unet, 'utf8');
}

it('makes again what is damaged of a run: images, results, weights; it ends in the same bytes', async () => {
  const done = new Set<string>();
  const once = (name: string): boolean => !done.has(name) && Boolean(done.add(name));
  const h = await start();
  await h.create({}, 'calm');
  await h.finished('calm');
  h.fakes.behaviour.onJob = async ({ key, work }) => {
    if (work.case === 'score' && key === 'r1/eval-score-sft/0000' && once('image'))
      await damageAndRead(h, work.value.items[0]!.image!);
    if (work.case === 'sample' && key === 'r1/sample-spin1/0001' && once('weights'))
      await damageAndRead(h, work.value.unet!.weights!);
  };
  h.fakes.behaviour.onStep = async ({ key }, step) => {
    // The next training finds that it has no result to read.
    if (key === 'r1/train-spin1' && step === 6 && once('result')) {
      const file = join(h.root, 'store/results/r1/encode/0000.json');
      const text = await readFile(file, 'utf8');
      await writeFile(file, text.replace('"count":3', '"count":2'));
    }
    return 1;
  };
  await h.create();
  const run = await h.finished('r1');
  expect([run.reason, run.status]).toEqual(['', RunStatus.SUCCEEDED]);
  expect([...done].sort()).toEqual(['image', 'result', 'weights']);
  for (const again of [
    'eval-sample-sft: the result of shard 0 was',
    'train-spin1: the weights were',
    'encode: the result of shard 0 was',
  ])
    expect(run.warnings.join()).toContain(`${again} damaged and`);
  expect(run.deadJobs).toEqual([]);
  expect(await unetOf(h, 'r1')).toBe(await unetOf(h, 'calm'));
});

it('trains beside drawing to the same bytes, whatever is lost meanwhile, and also when an image is given up', async () => {
  const shortly = {
    ...{ iterations: 1, baselines: {}, train: { steps: 6, batch_size: 1 } },
    ...{ sampling: { steps: 2, shard_size: 1 }, max_missing: 0.5 },
  };
  const overlapping = { ...shortly, resources: { encode_shard_size: 3, shared_device: false } };
  const weightsOf = (runId: string): Promise<string> =>
    readFile(
      join(harness!.root, runId, 'iterations/1/unet/diffusion_pytorch_model.safetensors'),
      'utf8',
    );
  const h = await start();
  await h.create(shortly, 'calm');
  await h.finished('calm');
  const drawing = holding('r1/sample-base/0005');
  h.fakes.behaviour.onJob = drawing.onJob;
  await h.create(overlapping);
  const states = async () => {
    const { run } = await h.client.getRun({ runId: 'r1' });
    const stages = run?.stages.filter(({ stage }) => /^(sample-base|train-spin1)$/.test(stage));
    return stages?.map(({ state }) => state);
  };
  await expect.poll(states, { timeout: 20_000 }).toEqual(['running', 'running']);
  // What training has read is damaged, then what says of another one that it is done.
  const read = fromJsonString(
    JobResultSchema,
    (await h.store.getResult('r1/sample-base/0001')) ?? '',
  );
  if (read.result.case !== 'sample') throw new Error('expected a sample result');
  const blob = await h.store.localPath(read.result.value.latents!);
  await chmod(blob, 0o644);
  await writeFile(blob, 'damaged');
  await h.gateway.stop();
  await h.store.deleteResults('r1/sample-base/0002');
  await h.restartGateway();
  drawing.hand.open();
  const run = await h.finished('r1');
  expect([run.reason, run.status, run.deadJobs]).toEqual(['', RunStatus.SUCCEEDED, []]);
  expect(run.warnings.join()).toContain('sample-base: the result of shard 1 was damaged');
  expect(await weightsOf('r1')).toBe(await weightsOf('calm'));

  h.fakes.behaviour.onJob = ({ key }) => {
    if (key.endsWith('/sample-base/0004'))
      throw new SpindleError('INVALID_ARGUMENT', 'it cannot be drawn');
  };
  await h.create(shortly, 'less-calm');
  await h.finished('less-calm');
  await h.create(overlapping, 'less');
  const less = await h.finished('less');
  expect([less.reason, less.status]).toEqual(['', RunStatus.SUCCEEDED]);
  expect(await weightsOf('less')).toBe(await weightsOf('less-calm'));
  expect(await weightsOf('less')).not.toBe(await weightsOf('calm'));
}, 90_000); // four runs

it('makes weights again that nobody has read since they were trained, before the run ends', async () => {
  let before: string[] = [];
  const filesOf = (h: Harness): Promise<string[]> =>
    Promise.all(
      ['diffusion_pytorch_model.safetensors', 'config.json'].map((name) =>
        readFile(join(h.root, 'r1/baselines/sft/unet', name), 'utf8'),
      ),
    );
  const h = await start({
    onJob: async ({ key }) => {
      if (key !== 'r1/eval-score-spin2/0000' || before.length > 0) return;
      before = await filesOf(harness!);
      const unet = join(harness!.root, 'r1/baselines/sft/unet');
      // Of one the blob, which is the same file; of the other the copy.
      for (const name of ['diffusion_pytorch_model.safetensors', 'config.json']) {
        await chmod(join(unet, name), 0o644);
        await writeFile(join(unet, name), 'damaged');
      }
    },
  });
  await h.create();
  const run = await h.finished('r1');
  expect([run.reason, run.status]).toEqual(['', RunStatus.SUCCEEDED]);
  expect(run.warnings.join()).toContain('train-sft: the weights were damaged and are made again');
  expect(before).toHaveLength(2);
  expect(await filesOf(h)).toEqual(before);
});

it('gives up on what is damaged each time that it is made', async () => {
  const h = await start({
    onJob: async ({ key, work }) => {
      if (work.case === 'score' && key.startsWith('r1/eval-score-base'))
        await damageAndRead(harness!, work.value.items[0]!.image!);
    },
  });
  await h.create();
  const run = await h.finished('r1');
  expect(run.status).toBe(RunStatus.FAILED);
  expect(run.reason).toContain('eval-score-base lost');
});

/** The list of texts that a job names: rows of the data, or held-out prompts. */
function textsOf({ work }: Job): ArtifactRef | undefined {
  if (work.case === 'encode') return work.value.manifest;
  return work.case === 'sample' ? work.value.texts.value : undefined;
}

it.each(['gone', 'damaged'])(
  'makes lists of rows and prompts again that are %s, and ends in the same bytes',
  async (how) => {
    const first = ['encode', 'sample-base', 'eval-sample-base'];
    const done = new Set<string>();
    const h = await start();
    await h.create({}, 'calm');
    await h.finished('calm');
    // As workers do. The first job of each of these stages finds its list lost; so do those beside.
    h.fakes.behaviour.onJob = async (job) => {
      const [ref, stage = ''] = [textsOf(job), job.key.split('/')[1]];
      if (!ref || !job.key.startsWith('r1/')) return;
      if (first.includes(stage) && !done.has(stage)) {
        const path = await h.store.localPath(ref);
        await chmod(path, 0o644);
        await (how === 'gone' ? rm(path) : writeFile(path, 'damaged'));
      }
      done.add(stage);
      await h.store.get(ref);
    };
    await h.create();
    const run = await h.finished('r1');
    expect([run.reason, run.status]).toEqual(['', RunStatus.SUCCEEDED]);
    expect([...done]).toEqual(expect.arrayContaining(first));
    for (const key of ['data', 'evaluation.prompts'])
      expect(run.warnings.join()).toContain(`${key}: the run's list was damaged or lost and is`);
    expect(run.deadJobs).toEqual([]);
    expect(await unetOf(h, 'r1')).toBe(await unetOf(h, 'calm'));
  },
);

it('says of a lost list whose files have changed what to put back, and goes on when it is', async () => {
  const lines = () => join(harness!.folder, 'data/metadata.jsonl');
  let before = '';
  const h = await start({
    onJob: async (job) => {
      const ref = textsOf(job);
      if (job.key === 'r1/sample-base/0000' && before === '' && ref) {
        await rm(await harness!.store.localPath(ref));
        before = await readFile(lines(), 'utf8');
        await writeFile(lines(), before.replace('picture 1', 'painting 1'));
      }
      if (ref) await harness!.store.get(ref);
    },
  });
  await h.create();
  const failed = await h.finished('r1');
  expect(failed.status).toBe(RunStatus.FAILED);
  expect(failed.reason).toMatch(
    /sample-base: data: the run's list of training rows was lost, and \S+ gives another one today: expected sha256:\S+, got sha256:\S+; put the files back/,
  );
  const resume = () => h.client.resumeRun({ runId: 'r1' });
  await expect(resume()).rejects.toThrow("data: the run's list of training rows was lost");
  await writeFile(lines(), before);
  await resume();
  const run = await h.finished('r1');
  expect([run.reason, run.status]).toEqual(['', RunStatus.SUCCEEDED]);
});

it('makes whatever is missing of a run that has succeeded again when it is resumed', async () => {
  const h = await start();
  await h.create();
  await h.finished('r1');
  const folder = join(h.root, 'r1');
  const weights = 'iterations/2/unet/diffusion_pytorch_model.safetensors';
  const files = ['report.json', 'metrics.jsonl', 'config.json', weights];
  const contents = (): Promise<string[]> =>
    Promise.all(files.map((name) => readFile(join(folder, name), 'utf8')));
  const [report = '', ...before] = await contents();
  const resumed = async (): Promise<Run> => {
    await h.client.resumeRun({ runId: 'r1' });
    return h.finished('r1');
  };
  const trained = h.fakes.trained.length;
  for (const name of files) {
    await rm(join(folder, name));
    // What it has in memory must not be what helps.
    await h.restartGateway();
    const run = await resumed();
    expect([name, run.reason, run.status]).toEqual([name, '', RunStatus.SUCCEEDED]);
    expect((await contents()).slice(1), name).toEqual(before);
    expect(JSON.parse((await contents())[0] ?? ''), name).toMatchObject({
      models: (JSON.parse(report) as { models: string[] }).models,
    });
  }
  expect(h.fakes.trained).toHaveLength(trained);
  // The blobs themselves: a U-Net and its link in the run's folder are one file.
  await chmod(join(folder, weights), 0o644);
  await writeFile(join(folder, weights), 'damaged');
  const run = await resumed();
  expect([run.reason, run.status]).toEqual(['', RunStatus.SUCCEEDED]);
  expect((await contents()).slice(1)).toEqual(before);
  expect(run.warnings).toEqual(['train-spin2: the weights were damaged and are made again']);
  await expect(
    h.client.resumeRun({ runId: 'r1', configJson: JSON.stringify(h.config) }),
  ).rejects.toThrow('run "r1" is succeeded; it cannot be resumed');
});

it('names the steps whose numbers are lost for good', async () => {
  const h = await start();
  await h.create();
  await h.finished('r1');
  for (const name of ['metrics.jsonl', 'metrics.csv']) await rm(join(h.root, 'r1', name));
  await h.restartGateway();
  await h.client.resumeRun({ runId: 'r1' });
  const run = await h.finished('r1');
  expect(run.status).toBe(RunStatus.SUCCEEDED);
  expect(run.warnings).toEqual(
    ['sft', 'spin1', 'spin2'].map(
      (model) =>
        expect.stringMatching(
          new RegExp(`^metrics\\.jsonl: the numbers of (\\d+) of \\1 steps of ${model} are lost`),
        ) as string,
    ),
  );
});
