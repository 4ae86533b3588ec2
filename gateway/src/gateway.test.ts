import { fromJsonString } from '@bufbuild/protobuf';
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { SpindleError } from '@spindle/kit';
import { snapshotKey } from '@spindle/mesh';
import { RunStatus, TrainFinishedSchema, type Job, type Run } from '@spindle/proto';
import { startHarness, type Harness } from './testing/harness.js';
import type { FakeBehaviour } from './testing/fakes.js';

let harness: Harness | undefined;
afterEach(async () => {
  await harness?.stop();
  harness = undefined;
});

async function start(behaviour: FakeBehaviour = {}, rows?: number): Promise<Harness> {
  harness = await startHarness(behaviour, rows);
  return harness;
}

async function weights(h: Harness, runId: string, k: number): Promise<string> {
  return readFile(
    join(h.root, runId, 'iterations', String(k), 'unet', 'diffusion_pytorch_model.safetensors'),
    'utf8',
  );
}

function stage(run: Run, name: string): Run['stages'][number] {
  const found = run.stages.find((s) => s.stage === name);
  if (!found) throw new Error(`no stage ${name}`);
  return found;
}

it('leaves a folder alone that is no run of its own', async () => {
  const h = await start();
  const theirs = join(h.root, 'photos');
  await mkdir(theirs);
  await writeFile(join(theirs, 'cat.txt'), 'cat');
  await expect(h.create({}, 'photos')).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  expect(await readdir(theirs)).toEqual(['cat.txt']);
  expect((await h.client.listRuns({})).runs).toEqual([]);
});

describe('a run', () => {
  it('goes from data to evaluated iterations', async () => {
    const h = await start({
      score: (model) => ({ base: 1, sft: 3, spin1: 2, spin2: 1.5 })[model] ?? 0,
    });
    await h.create();
    const run = await h.finished('r1');
    expect(run.reason).toBe('');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    expect(run.stages.every((s) => s.state === 'done')).toBe(true);
    expect(run.bestModel).toBe('spin1');
    expect(run.results.map((r) => r.model)).toEqual(['base', 'sft', 'spin1', 'spin2']);
    expect(new Set(h.fakes.worked).size).toBe(h.fakes.worked.length);

    const unet = join(h.root, 'r1', 'iterations', '2', 'unet');
    expect(JSON.parse(await readFile(join(unet, 'config.json'), 'utf8'))).toHaveProperty(
      '_class_name',
    );
    expect((await stat(join(h.root, 'r1', 'best', 'unet'))).isDirectory()).toBe(true);
    const metrics = (await readFile(join(h.root, 'r1', 'metrics.jsonl'), 'utf8'))
      .trim()
      .split('\n');
    expect(metrics).toHaveLength(3 + 6 + 6);
    const report = JSON.parse(await readFile(join(h.root, 'r1', 'report.json'), 'utf8')) as {
      models: string[];
      run: { curves: { model: string; steps: unknown[] }[] };
    };
    expect(report.models).toEqual(['base', 'sft', 'spin1', 'spin2']);
    expect(
      Object.fromEntries(report.run.curves.map(({ model, steps }) => [model, steps.length])),
    ).toEqual({
      sft: 3,
      spin1: 6,
      spin2: 6,
    });
  });

  it('is watched as a stream that ends with it', async () => {
    const h = await start();
    await h.create();
    const types = new Set<string>();
    let last: Run | undefined;
    for await (const { eventJson, run } of h.client.watchRun({ runId: 'r1' })) {
      if (eventJson !== '')
        for (const key of Object.keys(JSON.parse(eventJson) as object)) types.add(key);
      last = run;
    }
    expect(last?.status).toBe(RunStatus.SUCCEEDED);
    for (const type of ['runChanged', 'stageChanged', 'trainStep', 'modelEvaluated', 'jobDone'])
      expect(types).toContain(type);
  });

  it('ends in the same bytes when the gateway is killed and started again at many points', async () => {
    // Of spin1 step 4 is best, of spin2 the last one, of sft two are equal.
    const means: Record<string, number[]> = { sft: [2, 2], spin1: [1, 3, 2], spin2: [1, 2, 3] };
    const scoreOf = (key: string): number | undefined => {
      const [, model = '', shard = ''] = /judge-score-(\w+)\/(\d+)$/.exec(key) ?? [];
      return means[model]?.[Number(shard)];
    };
    const h = await start({ stepMs: 5, scoreOf });
    await writeFile(join(h.folder, 'select.txt'), 'four\nfive\nsix\n');
    const judged = {
      train: { ...(h.config['train'] as object), judge_every: 2, judge_prompts: 2, keep: 'best' },
      evaluation: {
        ...(h.config['evaluation'] as object),
        select: { prompts: join(h.folder, 'select.txt') },
      },
    };
    await h.create(judged, 'undisturbed');
    await h.finished('undisturbed');
    const expected = await weights(h, 'undisturbed', 2);
    await h.create(judged, 'r1');
    for (const until of [
      'encode',
      'train-sft',
      'sample-base',
      'train-spin1',
      'judge-sample-spin1',
      'judge-score-spin1',
      'sample-spin1',
      'train-spin2',
      'report',
    ]) {
      await waitFor(async () => {
        const { run } = await h.client.getRun({ runId: 'r1' });
        return (
          run !== undefined &&
          (run.status === RunStatus.SUCCEEDED || stage(run, until).state !== 'waiting')
        );
      });
      await h.restartGateway();
    }
    expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
    expect(await weights(h, 'r1', 2)).toBe(expected);
    const jobs = h.fakes.worked.filter((key) => key.startsWith('r1/'));
    expect(new Set(jobs).size).toBe(jobs.length);
    const kept = { sft: 2, spin1: 4, spin2: 6 };
    for (const runId of ['undisturbed', 'r1']) {
      const { run } = await h.client.getRun({ runId });
      const trainings = run?.judgedTrainings ?? [];
      expect(Object.fromEntries(trainings.map(({ model, keptStep }) => [model, keptStep]))).toEqual(
        kept,
      );
      expect(
        Object.fromEntries(
          trainings.map(({ model, steps }) => [model, steps.map(({ mean }) => mean)]),
        ),
      ).toEqual(means);
    }
    // Both runs have left the same weights on the way; those that are models stay.
    const left = async (model: string, step: number): Promise<boolean> => {
      const json = await h.store.getResult(snapshotKey(`r1/train-${model}`, step));
      const { unet } = fromJsonString(TrainFinishedSchema, json ?? '');
      return unet?.weights !== undefined && (await h.store.has(unet.weights));
    };
    await waitFor(async () => !(await left('spin2', 2)) && !(await left('spin2', 4)));
    expect(await left('spin1', 2)).toBe(false);
    expect(await left('spin1', 4)).toBe(true);
    expect(await left('sft', 2)).toBe(true);
  });

  it('waits for a trainer that is away, and goes on from its checkpoint', async () => {
    let broken = true;
    const h = await start({
      onStep: (request, step) => {
        if (broken && request.iteration === 1 && step === 5)
          throw new SpindleError('UNAVAILABLE', 'the process ended');
        return 1;
      },
    });
    await h.create();
    await waitFor(
      async () => h.fakes.trained.filter((entry) => entry === 'r1/train-spin1@4').length > 0,
    );
    broken = false;
    expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
    expect(h.fakes.trained.filter((entry) => entry === 'r1/train-spin1@4')).toHaveLength(1);
  });

  it('publishes jobs again when the queue has lost them', async () => {
    let taken = false;
    let open = (): void => undefined;
    const opened = new Promise<void>((resolve) => (open = resolve));
    const h = await start({
      onJob: async (job) => {
        if (!job.key.includes('/sample-base')) return;
        taken = true;
        await opened;
      },
    });
    await h.create();
    // One job is in hand, and others wait behind it.
    await waitFor(async () => taken && (await h.bus.queueDepths()).sample.pending > 0);
    await h.bus.purgeJobs('r1');
    open();
    expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
  });
});

describe('trouble', () => {
  it('goes on without a few lost items and names the dead jobs', async () => {
    const h = await start({
      onJob: (job) => {
        if (job.key === 'r1/sample-base/0001')
          throw new SpindleError('INVALID_ARGUMENT', 'the prompt cannot be drawn');
      },
    });
    await h.create({ max_missing: 0.5 });
    const run = await h.finished('r1');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    expect(run.deadJobs.map(({ key, reason }) => ({ key, reason }))).toEqual([
      {
        key: 'r1/sample-base/0001',
        reason: expect.stringContaining('the prompt cannot be drawn') as string,
      },
    ]);
    expect(run.warnings.join()).toContain('2 of 6 items are missing');
  });

  it('fails when too much is lost, and tries again when resumed', async () => {
    let broken = true;
    const h = await start({
      onJob: (job) => {
        if (broken && job.key === 'r1/sample-base/0001')
          throw new SpindleError('INVALID_ARGUMENT', 'the disk is odd');
      },
    });
    await h.create();
    const failed = await h.finished('r1');
    expect(failed.status).toBe(RunStatus.FAILED);
    expect(failed.reason).toContain('sample-base lost 2 of 6 items');
    broken = false;
    await h.client.resumeRun({ runId: 'r1' });
    expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
  });

  it('fails again when a job dies again after each resume, also on a server that was wiped', async () => {
    let deaths = 0;
    const h = await start({
      onJob: (job) => {
        if (job.key !== 'r1/sample-base/0001') return;
        deaths += 1;
        throw new SpindleError('INVALID_ARGUMENT', `the disk is odd, ${deaths}`);
      },
    });
    await h.create();
    for (const time of [1, 2, 3]) {
      const failed = await h.finished('r1');
      expect(failed.status).toBe(RunStatus.FAILED);
      expect(failed.reason).toContain(`the disk is odd, ${time}`);
      // The stream has lost its letters: a count of them would begin anew.
      if (time === 2) await h.bus.purgeRun('r1');
      await h.client.resumeRun({ runId: 'r1' });
    }
    expect((await h.finished('r1')).status).toBe(RunStatus.FAILED);
    expect(deaths).toBe(4);
  });

  it('fails with the step when training diverges', async () => {
    const h = await start({
      onStep: (request, step) => (request.iteration === 2 && step === 3 ? Number.NaN : 1),
    });
    await h.create();
    const run = await h.finished('r1');
    expect(run.status).toBe(RunStatus.FAILED);
    expect(run.reason).toContain('training of spin2 diverged at step 3');
    expect((await stat(join(h.root, 'r1', 'iterations', '1', 'unet'))).isDirectory()).toBe(true);
  });

  it('pauses on a full disk', async () => {
    const h = await start({
      onStep: (_request, step) => {
        if (step === 2) throw new SpindleError('RESOURCE_EXHAUSTED', 'the disk is full: write');
        return 1;
      },
    });
    await h.create();
    const run = await h.finished('r1');
    expect(run.status).toBe(RunStatus.PAUSED);
    expect(run.reason).toContain('the disk is full');
  });

  it('pauses when a job has no room for its result, and draws it after all once there is some', async () => {
    let full = true;
    const h = await start({
      onJob: (job) => {
        if (full && job.key === 'r1/sample-base/0001')
          throw new SpindleError('RESOURCE_EXHAUSTED', 'the disk is full: write');
      },
    });
    // Losing the job would be allowed: it is not lost.
    await h.create({ max_missing: 0.5 });
    const paused = await h.finished('r1');
    expect(paused.status).toBe(RunStatus.PAUSED);
    expect(paused.reason).toContain('sample-base: the disk is full: write (tried 3 times)');
    full = false;
    await h.client.resumeRun({ runId: 'r1' });
    const run = await h.finished('r1');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    expect(run.deadJobs).toEqual([]);
    expect(run.warnings).toEqual([]);
    expect(stage(run, 'sample-base').done).toBe(6);
  });

  it('names the images that it fails for', async () => {
    const h = await start({ rejected: [1, 2, 3] }, 6);
    await h.create();
    const run = await h.finished('r1');
    expect(run.status).toBe(RunStatus.FAILED);
    expect(run.reason).toContain('more than max_missing 0.05 allows');
    expect(run.warnings.join()).toMatch(/[123]\.png is left out: the image is truncated/);
  });

  it('leaves unreadable images out', async () => {
    const h = await start({ rejected: [3] }, 30);
    const { train } = h.config as { train: object };
    await h.create({ train: { ...train, steps: 8, batch_size: 4 } });
    const run = await h.finished('r1');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    expect(stage(run, 'sample-base').done).toBe(29);
    expect(run.warnings.join()).toContain('3.png is left out: the image is truncated');
  });

  it('draws every image at the size that encoding gave its row, and evaluates squares', async () => {
    const jobs = new Map<string, Job>();
    const h = await start({ onJob: (job) => void jobs.set(job.key, job) });
    const { data } = h.config as { data: object };
    await h.create({ data: { ...data, buckets: { step: 16 } } });
    const run = await h.finished('r1');
    expect([run.reason, run.status]).toEqual(['', RunStatus.SUCCEEDED]);
    const work = (key: string) => jobs.get(`r1/${key}`)?.work;
    const sizes = [
      { height: 80, width: 48 },
      { height: 64, width: 64 },
      { height: 48, width: 80 },
    ];
    expect(work('encode/0001')?.value).toMatchObject({ resolution: 64, sizes });
    // A row's size is that of its place in an encode job of three.
    const drawn = [0, 1, 2].flatMap((shard) => {
      const own = work(`sample-spin1/000${shard}`);
      return own?.case === 'sample' ? own.value.rows : [];
    });
    expect(drawn).toHaveLength(6);
    for (const { index, height, width } of drawn)
      expect({ height, width }).toEqual(sizes[index % 3]);
    expect(work('eval-sample-spin1/0000')?.value).toMatchObject({
      rows: [
        { height: 0, width: 0 },
        { height: 0, width: 0 },
      ],
    });
  });

  it('says which buckets there are, and refuses such as the models cannot halve', async () => {
    const h = await start();
    const { data } = h.config as { data: object };
    const check = async (more: object) =>
      (
        await h.client.createRun({
          configJson: JSON.stringify({ ...h.config, data: { ...data, ...more } }),
          runId: 'r1',
          dryRun: true,
        })
      ).plan;
    expect(await check({ buckets: { step: 16 } })).toContain(
      'buckets: 3 sizes from 48×80 to 80×48 pixels; the largest, 64×64, decides on memory.',
    );
    await expect(check({ buckets: {}, resolution: 96 })).rejects.toThrow(
      'data.resolution: expected a multiple of data.buckets.step 64, got 96.',
    );
    await expect(check({ buckets: { step: 24 } })).rejects.toThrow(
      "data.buckets.step: expected a multiple of 16 (the VAE's 8 times the U-Net's 2), got 24.",
    );
  });

  it('makes damaged shards again before training: encoded ones, and those drawn for this iteration and the one before', async () => {
    const h = await start();
    const damaged = new Set<number>();
    h.fakes.behaviour.onStep = async ({
      iteration,
      encodedShards,
      generatedShards,
      previousShards,
    }) => {
      const refs = [encodedShards[0], (iteration === 2 ? previousShards : generatedShards)[0]];
      if (iteration === 0) return 1;
      for (const ref of refs) {
        if (ref === undefined) throw new Error('expected a shard, got none');
        if (damaged.has(iteration)) continue;
        const path = await h.store.localPath(ref);
        await chmod(path, 0o644);
        await writeFile(path, 'damaged');
      }
      damaged.add(iteration);
      for (const ref of refs) await h.store.get(ref!);
      return 1;
    };
    // With buckets, what is drawn is told its size by what was encoded.
    const { data, sampling } = h.config as { data: object; sampling: object };
    await h.create({
      data: { ...data, buckets: { step: 16 } },
      sampling: { ...sampling, previous_share: 0.5 },
    });
    const run = await h.finished('r1');
    expect(run.reason).toBe('');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    expect([...damaged]).toEqual([1, 2]);
  });
});

describe('steering', () => {
  it('pauses in the middle of training and resumes to the same bytes', async () => {
    const h = await start({ stepMs: 5 });
    await h.create({}, 'undisturbed');
    await h.finished('undisturbed');
    await h.create();
    await waitFor(
      async () => stage((await h.client.getRun({ runId: 'r1' })).run!, 'train-spin1').done > 1,
    );
    expect((await h.client.pauseRun({ runId: 'r1' })).run?.status).toBe(RunStatus.PAUSED);
    await h.restartGateway();
    const paused = (await h.client.getRun({ runId: 'r1' })).run!;
    expect(paused.status).toBe(RunStatus.PAUSED);
    expect(paused.stages.filter((s) => s.state === 'running')).toEqual([]);
    expect(paused.stages.some((s) => s.state === 'paused')).toBe(true);
    await h.client.resumeRun({ runId: 'r1' });
    expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
    expect(await weights(h, 'r1', 2)).toBe(await weights(h, 'undisturbed', 2));
  });

  it('takes on changed settings when it resumes, says which, and refuses those that would make another run', async () => {
    let broken = true;
    const h = await start({
      onJob: (job) => {
        if (broken && job.key === 'r1/sample-base/0001')
          throw new SpindleError('INVALID_ARGUMENT', 'the disk is odd');
      },
    });
    await h.create();
    const failed = await h.finished('r1');
    const config = JSON.parse(failed.configJson) as {
      iterations: number;
      train: { learning_rate: number };
    };
    const resume = (change: object) =>
      h.client.resumeRun({ runId: 'r1', configJson: JSON.stringify({ ...config, ...change }) });
    await expect(resume({ train: { ...config.train, learning_rate: 0.5 } })).rejects.toThrow(
      /^train\.learning_rate: expected .* got 0\.5/,
    );
    broken = false;
    const { changes } = await resume({ iterations: config.iterations + 1, max_missing: 0.25 });
    expect(changes).toEqual([
      `iterations: ${config.iterations} → ${config.iterations + 1}`,
      expect.stringMatching(/^max_missing: .* → 0\.25$/) as string,
    ]);
    const run = await h.finished('r1');
    expect(run.status).toBe(RunStatus.SUCCEEDED);
    expect(stage(run, `train-spin${config.iterations + 1}`).state).toBe('done');
    expect(run.warnings.join()).toContain('resumed with changed settings: iterations:');
    expect(JSON.parse(run.configJson)).toMatchObject({ max_missing: 0.25 });
  });

  it('cancels, refuses what makes no sense, and deletes', async () => {
    const h = await start({ stepMs: 20 });
    await h.create();
    await expect(h.client.deleteRun({ runId: 'r1' })).rejects.toThrow(
      'run "r1" is running; it cannot be deleted before it has ended; cancel it first.',
    );
    expect((await h.client.cancelRun({ runId: 'r1' })).run?.status).toBe(RunStatus.CANCELLED);
    await expect(h.client.resumeRun({ runId: 'r1' })).rejects.toThrow(
      'run "r1" is cancelled; it cannot be resumed; start a new one from its config.',
    );
    const checkpoints = await h.store.checkpointDir('r1/train-spin1');
    await h.client.deleteRun({ runId: 'r1' });
    await expect(stat(checkpoints)).rejects.toThrow();
    await expect(h.client.getRun({ runId: 'r1' })).rejects.toThrow('no run is named "r1"');
    await expect(stat(join(h.root, 'r1'))).rejects.toThrow();
  });

  it('warns once of a judge whose files leave something open', async () => {
    const h = await start();
    const model = join(h.folder, 'bare-clip');
    await mkdir(model);
    const metrics = [
      { name: 'pick', kind: 'clip', model },
      { name: 'score', kind: 'clip_score', model },
    ];
    const run = await h.create({ evaluation: { ...(h.config['evaluation'] as object), metrics } });
    expect(run.warnings).toEqual([`judge: ${model}: no preprocessor_config.json`]);
  });

  it('runs one run after the other and lists them in pages', async () => {
    const h = await start();
    await h.create({}, 'first');
    const second = await h.create({}, 'second');
    expect(second.status).toBe(RunStatus.QUEUED);
    const page = await h.client.listRuns({ pageSize: 1 });
    expect(page.runs.map((run) => run.runId)).toEqual(['second']);
    const rest = await h.client.listRuns({ pageSize: 1, pageToken: page.nextPageToken });
    expect(rest.runs.map((run) => run.runId)).toEqual(['first']);
    expect(rest.nextPageToken).toBe('');
    expect((await h.finished('second')).status).toBe(RunStatus.SUCCEEDED);
  });

  it('refuses an artifacts folder that another gateway uses', async () => {
    const h = await start();
    const { lockFolder } = await import('./orchestrator/folder-lock.js');
    await expect(lockFolder(h.root)).rejects.toThrow('in use by another gateway');
  });

  it('drives no run while another gateway has its folder, and takes them up after it', async () => {
    const h = await start();
    const file = join(h.root, 'gateway.lock.2');
    const other = { pid: 1, host: 'other', started: '', place: 'another', since: 'then', id: 'x' };
    await writeFile(file, JSON.stringify(other));
    await waitFor(() => Promise.resolve(!h.gateway.orchestrator.ready));
    await expect(h.client.listRuns({})).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await writeFile(file, JSON.stringify({ ...other, released: true }));
    await waitFor(() => Promise.resolve(h.gateway.orchestrator.ready));
    await h.create();
    expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
  });

  it('rebuilds a wiped run bucket from the run folders', async () => {
    const h = await start({ stepMs: 5 });
    await h.create();
    await waitFor(
      async () =>
        stage((await h.client.getRun({ runId: 'r1' })).run!, 'train-spin1').state !== 'waiting',
    );
    await h.gateway.stop();
    await h.bus.kv('runs').delete('r1');
    await h.restartGateway();
    expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
  });
});

async function waitFor(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}
