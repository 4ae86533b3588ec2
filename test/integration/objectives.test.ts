import { fromJsonString } from '@bufbuild/protobuf';
import { asFloat32, asNumbers, readSafetensors } from '@spindle/kit';
import { openLocalStore } from '@spindle/mesh';
import { JobResultSchema, RunStatus, type ArtifactRef } from '@spindle/proto';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { scenes, sha256, weightsOf } from '../harness/files.js';
import { root } from '../harness/child.js';
import { Mesh, readJson } from '../harness/mesh.js';
import { reached } from '../harness/progress.js';

let mesh: Mesh;
let data: string;
beforeAll(async () => {
  data = await mkdtemp(join(tmpdir(), 'spindle-pairs-'));
  const rows: string[] = [];
  for (const i of [0, 1, 2, 3]) {
    const [chosen, rejected] = [`${i}.png`, `worse-${i}.png`];
    await copyFile(join(scenes, `train/000${i}.png`), join(data, chosen));
    await copyFile(join(scenes, `train/000${i + 4}.png`), join(data, rejected));
    // One row is no pair.
    rows.push(
      JSON.stringify({
        file_name: chosen,
        text: `a scene ${i}`,
        ...(i < 3 && { rejected_file_name: rejected }),
      }),
    );
  }
  await copyFile(join(scenes, 'train/0007.png'), join(data, 'worse-3.png'));
  await writeFile(join(data, 'metadata.jsonl'), rows.join('\n'));
  mesh = await Mesh.start();
});
afterAll(async () => {
  await mesh.stop();
  await rm(data, { recursive: true, force: true });
});

interface Report {
  models: { name: string; metrics: Record<string, { n: number; mean: number }> }[];
  curves: Record<string, { step: number; loss: number }[]>;
  warnings: string[];
}

it('compares base, SFT, Diffusion-DPO and iterations of self-play in one run', async () => {
  const { evaluation, train, ...config } = tinyConfig();
  const { prompts: file, limit: _limit, ...judging } = evaluation;
  const one = { file, limit: 1 };
  const run = {
    ...config,
    data: { path: data },
    objective: { loss: 'ipo', beta: 4000, opponent: 'initial', safeguard: 0, auto_beta: 0.2 },
    train: { ...train, steps: 2, batch_size: 2 },
    baselines: {
      sft: { min_snr_gamma: 5 },
      dpo: { beta: 500, timesteps_per_pair: 2, timestep_weight: 'min_snr' },
    },
    evaluation: {
      ...judging,
      // A prompt that is in both sets is drawn and told of in both.
      prompts: { first: one, second: { file, limit: 2 } },
      metrics: evaluation.metrics.slice(0, 1),
    },
  };
  await mesh.create(run, 'objectives');
  const ended = await mesh.ended('objectives');
  expect(ended.reason).toBe('');
  expect(ended.status).toBe(RunStatus.SUCCEEDED);
  const report = (await readJson(join(mesh.runDirectory('objectives'), 'report.json'))) as Report;
  const models = ['base', 'sft', 'dpo', 'spin1', 'spin2'];
  expect(report.models.map(({ name }) => name)).toEqual(models);
  for (const { metrics } of report.models)
    expect(metrics['pickscore']).toMatchObject({
      ...{ n: 3, mean: expect.any(Number) as number },
      sets: { first: { n: 1 }, second: { n: 2 } },
    });
  const { dpo, spin1, spin2 } = report.curves;
  // At its first step a model is its opponent: the logit is 0.
  expect(dpo?.[0]?.loss).toBeCloseTo(Math.log(2), 6);
  expect(spin1?.[0]?.loss).toBeCloseTo(1 / 4, 6);
  // The second iteration begins at spin1 and plays against the base, which it is not.
  expect(spin2?.[0]?.loss).not.toBeCloseTo(1 / 4, 6);
  const lines = (await readFile(join(mesh.runDirectory('objectives'), 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n');
  const steps = lines.map(
    (line) => JSON.parse(line) as { model: string; step: number; beta: number; loserScale: number },
  );
  for (const { model, step, beta, loserScale } of steps) {
    if (model === 'sft') expect([beta, loserScale]).toEqual([0, 0]);
    else
      expect(loserScale, `${model} ${step}`).toSatisfy((scale: number) => scale >= 0 && scale <= 1);
    if (model === 'dpo' && step === 1) expect(beta).toBe(500);
  }
  expect(steps).toHaveLength(8);
  expect(report.warnings).toContain(
    'baselines.dpo: 1 of 4 rows have no rejected image; it trains on the other 3.',
  );
});

it('trains adapters that play against the average of the last ones, and leaves them beside whole U-Nets', async () => {
  const { evaluation: _none, baselines: _no, train, sampling, ...config } = tinyConfig();
  const run = {
    ...config,
    data: { path: data },
    objective: { opponent: 'ema' },
    train: {
      ...train,
      steps: 2,
      batch_size: 2,
      learning_rate: 1e-3,
      ema_decay: 0.5,
      lora: { rank: 2, alpha: 4 },
    },
    sampling: { ...sampling, ema: true },
  };
  await mesh.create(run, 'adapters');
  const ended = await mesh.ended('adapters');
  expect(ended.reason).toBe('');
  expect(ended.status).toBe(RunStatus.SUCCEEDED);
  const directory = mesh.runDirectory('adapters');
  const losses = (await readFile(join(directory, 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { model: string; step: number; loss: number });
  const first = (model: string) =>
    losses.find((line) => line.model === model && line.step === 1)?.loss;
  expect(first('spin1')).toBeCloseTo(Math.log(2), 6);
  // spin2 begins at spin1, and plays against its average.
  expect(Math.abs((first('spin2') ?? 0) - Math.log(2))).toBeGreaterThan(1e-6);

  const unet = join(directory, 'iterations/1/unet/diffusion_pytorch_model.safetensors');
  const tensors = (file: string) => readSafetensors(readFileSync(file), file).tensors;
  const base = tensors(join(scenes, 'tiny-sd/unet/diffusion_pytorch_model.safetensors'));
  const adapters = tensors(join(directory, 'iterations/1/pytorch_lora_weights.safetensors'));
  const merged = tensors(unet);
  expect([...merged.keys()].sort()).toEqual([...base.keys()].sort());
  let changed = 0;
  for (const [name, tensor] of merged) {
    const before = asFloat32(base.get(name)!);
    const after = asFloat32(tensor);
    const layer = name.replace(/\.weight$/, '');
    const [a, b] = [
      adapters.get(`unet.${layer}.lora_A.weight`),
      adapters.get(`unet.${layer}.lora_B.weight`),
    ];
    if (!a || !b) {
      expect(after, name).toEqual(before);
      continue;
    }
    const [rank = 0, width = 0] = a.shape;
    const [left, right] = [asFloat32(b), asFloat32(a)];
    for (let i = 0; i < after.length; i++) {
      let sum = before[i] ?? 0;
      for (let r = 0; r < rank; r++)
        sum +=
          (left[Math.floor(i / width) * rank + r] ?? 0) * (right[r * width + (i % width)] ?? 0);
      expect(Math.abs((after[i] ?? 0) - sum), name).toBeLessThan(1e-6);
      if (after[i] !== before[i]) changed++;
    }
  }
  expect(changed).toBeGreaterThan(0);
  expect(adapters.size % 2).toBe(0);
  const average = join(directory, 'iterations/1/ema/unet/diffusion_pytorch_model.safetensors');
  expect(sha256(average)).not.toBe(sha256(unet));

  // Adapters on the base draw what the whole U-Net draws.
  const draw = async (name: string, ...flags: string[]) => {
    const out = join(data, name);
    const common = [
      'sample',
      '--model',
      join(scenes, 'tiny-sd'),
      '--prompt',
      'a star',
      '--steps',
      '2',
      '--out',
      out,
    ];
    await promisify(execFile)(process.execPath, [
      join(root, 'services/models/bin/spindle-engine.js'),
      ...common,
      ...flags,
    ]);
    return sharp(out).raw().toBuffer();
  };
  const [whole, added, halved, plain] = [
    await draw('whole.png', '--unet', join(directory, 'iterations/1/unet')),
    await draw(
      'added.png',
      '--lora',
      join(directory, 'iterations/1/pytorch_lora_weights.safetensors'),
    ),
    await draw(
      'halved.png',
      '--lora',
      `${join(directory, 'iterations/1/pytorch_lora_weights.safetensors')}:-20`,
    ),
    await draw('plain.png'),
  ];
  const apart = (a: Buffer, b: Buffer) =>
    a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? 0))), 0);
  expect(apart(whole, added)).toBeLessThanOrEqual(1);
  expect(apart(halved, plain)).toBeGreaterThan(1);
});

it('trains on images of several aspect ratios at their own sizes', async () => {
  const folder = join(data, 'ratios');
  await mkdir(folder);
  // Upright, square and wide ones, pairs of two ratios among them.
  const sizes = [
    [60, 100],
    [70, 70],
    [150, 90],
    [90, 64],
    [64, 66],
  ] as const;
  const rows = await Promise.all(
    sizes.map(async ([width, height], i) => {
      const source = sharp(join(scenes, `train/000${i}.png`));
      await source
        .clone()
        .resize(width, height, { fit: 'fill' })
        .toFile(join(folder, `${i}.png`));
      await source
        .clone()
        .negate()
        .toFile(join(folder, `worse-${i}.png`));
      return JSON.stringify({
        file_name: `${i}.png`,
        text: `a scene ${i}`,
        ...(i < 3 && { rejected_file_name: `worse-${i}.png` }),
      });
    }),
  );
  await writeFile(join(folder, 'metadata.jsonl'), rows.join('\n'));
  const { evaluation: _none, train, sampling, ...config } = tinyConfig();
  const run = {
    ...config,
    data: { path: folder, buckets: { step: 16 }, flip: true, views: 2 },
    iterations: 2,
    train: { ...train, steps: 2, batch_size: 4, gradient_accumulation: 2 },
    sampling: { ...sampling, generated: 'pixels', previous_share: 0.5 },
    baselines: { sft: {}, dpo: {} },
  };
  await mesh.create(run, 'ratios');
  const ended = await mesh.ended('ratios');
  expect([ended.reason, ended.status]).toEqual(['', RunStatus.SUCCEEDED]);
  const store = await openLocalStore(mesh.artifacts);
  const shapesIn = async (stage: string, field: 'shard' | 'latents') => {
    const found: [number, string][] = [];
    for (const key of await store.listResults(`ratios/${stage}`)) {
      const { result } = fromJsonString(JobResultSchema, (await store.getResult(key)) ?? '');
      const ref = (result.value as Record<string, unknown> | undefined)?.[field] as ArtifactRef;
      const { tensors } = readSafetensors(await store.get(ref), key);
      const [index, shape] = ['index', 'shape'].map((name) => asNumbers(tensors.get(name)!));
      index?.forEach((row, n) => found.push([row, shape?.slice(3 * n, 3 * n + 3).join('×') ?? '']));
    }
    return Object.fromEntries(found);
  };
  // At a quarter of the pixels' sides: 48×80, 64×64, 80×48.
  const expected = { 0: '4×20×12', 1: '4×16×16', 2: '4×12×20', 3: '4×12×20', 4: '4×16×16' };
  expect(await shapesIn('encode', 'shard')).toEqual(expected);
  for (const model of ['base', 'spin1'])
    expect(await shapesIn(`sample-${model}`, 'latents')).toEqual(expected);
  const lines = (await readFile(join(mesh.runDirectory('ratios'), 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n');
  const steps = lines.map(
    (line) => JSON.parse(line) as { model: string; step: number; loss: number },
  );
  expect(steps).toHaveLength(8);
  for (const { model, step, loss } of steps)
    if (step === 1 && model !== 'sft') expect(loss, model).toBeCloseTo(Math.log(2), 6);
});

it('leaves out pairs that a judge finds better drawn, the same when it resumes', async () => {
  const { evaluation, train, objective, sampling, ...config } = tinyConfig();
  const run = {
    ...config,
    data: { path: data, buckets: { step: 16 }, flip: true, views: 2 },
    sampling: { ...sampling, generated: 'pixels', images_per_prompt: 2 },
    iterations: 1,
    baselines: {},
    train: { ...train, steps: 6, batch_size: 2, gradient_accumulation: 1 },
    objective: { ...objective, timesteps_per_pair: 2, timestep_weight: 'paper' },
    evaluation: { ...evaluation, limit: 1, metrics: evaluation.metrics.slice(0, 1) },
  };
  const [metric] = run.evaluation.metrics;
  // Every score of the pairs is known once they were judged; the margin lies between two of them.
  await mesh.create(
    { ...run, objective: { ...run.objective, keep_if: { metric: metric?.name, margin: 1e6 } } },
    'all-kept',
  );
  expect((await mesh.ended('all-kept')).reason).toBe('');
  const store = await openLocalStore(mesh.artifacts);
  const scores: number[] = [];
  for (const key of await store.listResults('all-kept/score-base')) {
    const { result } = fromJsonString(JobResultSchema, (await store.getResult(key)) ?? '');
    if (result.case !== 'score') throw new Error('expected scores');
    const values = result.value.scores[0]?.values ?? [];
    const pairs = values.length / 2;
    scores.push(...values.slice(0, pairs).map((value, n) => value - (values[pairs + n] ?? 0)));
  }
  expect(scores).toHaveLength(8);
  const [second = 0, first = 0] = scores.sort((a, b) => a - b).slice(-2);
  const keepIf = { metric: metric?.name, margin: (first + second) / 2 };
  const judged = { ...run, objective: { ...run.objective, keep_if: keepIf } };
  await mesh.create(judged, 'judged');
  const ended = await mesh.ended('judged');
  expect([ended.reason, ended.status]).toEqual(['', RunStatus.SUCCEEDED]);
  const reports = await Promise.all(
    ['all-kept', 'judged'].map(
      async (id) =>
        (await readJson(join(mesh.runDirectory(id), 'report.json'))) as Report & {
          judged_pairs: object[];
        },
    ),
  );
  expect(reports.map((report) => report.judged_pairs)).toEqual([
    [{ opponent: 'base', pairs: 8, left_out: 0 }],
    [{ opponent: 'base', pairs: 8, left_out: 1 }],
  ]);
  const digests = ['all-kept', 'judged'].map((id) =>
    sha256(join(mesh.runDirectory(id), 'iterations/1/unet/diffusion_pytorch_model.safetensors')),
  );
  expect(digests[0]).not.toBe(digests[1]);
  await mesh.create(judged, 'paused');
  await reached(mesh.artifacts, 'paused', { checkpoint: 'train-spin1', step: 1 });
  // What is left out is asked of the scores again.
  await mesh.spindle('pause', 'paused');
  await mesh.spindle('resume', 'paused');
  expect((await mesh.ended('paused')).reason).toBe('');
  expect(weightsOf(mesh.runDirectory('paused'))).toEqual(weightsOf(mesh.runDirectory('judged')));
});

it('refuses more timesteps than the model has before anything runs', async () => {
  const config = { ...tinyConfig(), objective: { beta: 1, timesteps_per_pair: 2000 } };
  await expect(mesh.create(config, 'too-many')).rejects.toThrow(
    /objective\.timesteps_per_pair: expected at most the model's 1000 timesteps, got 2000/,
  );
});

it('refuses the baseline on data without pairs before anything runs', async () => {
  const config = { ...tinyConfig(), baselines: { dpo: { steps: 1 } } };
  await expect(mesh.create(config, 'unpaired')).rejects.toThrow(
    /baselines\.dpo: expected rows with a rejected image in .*, got none/,
  );
});

it('draws what training reads, and trains to the bytes of a run that draws everything', async () => {
  const { data, model, name, seed, precision, objective, train, sampling } = tinyConfig();
  const run = {
    ...{ data, model, name, seed, precision, objective, sampling, iterations: 1 },
    train: { ...train, steps: 3, batch_size: 2 },
  };
  await mesh.create(run, 'as-read');
  // The opponent is the base in both; where it stays, every row is drawn.
  await mesh.create({ ...run, objective: { ...objective, opponent: 'initial' } }, 'all');
  const drawn: number[] = [];
  const weights: string[] = [];
  for (const id of ['as-read', 'all']) {
    const ended = await mesh.ended(id);
    expect(ended.status).toBe(RunStatus.SUCCEEDED);
    drawn.push(ended.stages.find(({ stage }) => stage === 'sample-base')?.done ?? -1);
    const file = 'iterations/1/unet/diffusion_pytorch_model.safetensors';
    weights.push(sha256(join(mesh.runDirectory(id), file)));
  }
  expect(drawn).toEqual([6, 8]);
  expect(weights[0]).toBe(weights[1]);
});

it('draws from the real images, to the same bytes however jobs share them', async () => {
  const { data, model, name, seed, precision, objective, train, sampling } = tinyConfig();
  const run = {
    ...{ data, model, name, seed, precision, objective, iterations: 1 },
    train: { ...train, steps: 2, batch_size: 4, gradient_accumulation: 1 },
    // One of 50 steps: what is drawn is nearly the real image.
    sampling: { ...sampling, steps: 50, generated_from: 'image', strength: 0.02 },
  };
  await mesh.create(run, 'near');
  await mesh.create({ ...run, sampling: { ...run.sampling, shard_size: 3 } }, 'near-by-threes');
  const weights: string[] = [];
  for (const id of ['near', 'near-by-threes']) {
    const ended = await mesh.ended(id);
    expect([ended.reason, ended.status]).toEqual(['', RunStatus.SUCCEEDED]);
    const file = 'iterations/1/unet/diffusion_pytorch_model.safetensors';
    weights.push(sha256(join(mesh.runDirectory(id), file)));
  }
  expect(weights[0]).toBe(weights[1]);

  const store = await openLocalStore(mesh.artifacts);
  const rowsOf = async (stage: string, field: 'shard' | 'latents', tensor: string) => {
    const rows = new Map<number, Float32Array>();
    for (const key of await store.listResults(stage)) {
      const { result } = fromJsonString(JobResultSchema, (await store.getResult(key)) ?? '');
      const ref = (result.value as Record<string, unknown> | undefined)?.[field] as ArtifactRef;
      const { tensors } = readSafetensors(await store.get(ref), key);
      const values = asFloat32(tensors.get(tensor)!);
      const index = asNumbers(tensors.get('index')!);
      const size = values.length / index.length;
      index.forEach((row, n) => rows.set(row, values.slice(n * size, (n + 1) * size)));
    }
    return rows;
  };
  const { scaling_factor: scale } = (await readJson(join(model, 'vae/config.json'))) as {
    scaling_factor: number;
  };
  const real = await rowsOf('near/encode', 'shard', 'mean');
  const drawn = await rowsOf('near/sample-base', 'latents', 'latents');
  expect(drawn.size).toBe(8);
  for (const [row, latents] of drawn) {
    const near = (real.get(row) ?? new Float32Array()).map((value) => value * scale);
    const squares = (of: (i: number) => number) => near.reduce((sum, _, i) => sum + of(i) ** 2, 0);
    const apart = squares((i) => (latents[i] ?? 0) - (near[i] ?? 0));
    expect(apart / squares((i) => near[i] ?? 0), `row ${row}`).toBeLessThan(0.1);
    expect(apart, `row ${row}`).toBeGreaterThan(0);
  }
});
