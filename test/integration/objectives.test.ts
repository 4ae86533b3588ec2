import { RunStatus } from '@spindle/proto';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyConfig } from '../harness/config.js';
import { scenes } from '../harness/files.js';
import { Mesh, readJson } from '../harness/mesh.js';

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
    rows.push(JSON.stringify({ file_name: chosen, text: `a scene ${i}`, ...(i < 3 && { rejected_file_name: rejected }) }));
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
  const run = {
    ...config,
    data: { path: data },
    objective: { loss: 'ipo', beta: 4000, opponent: 'initial', safeguard: 0, auto_beta: 0.2 },
    train: { ...train, steps: 2, batch_size: 2 },
    baselines: { sft: { min_snr_gamma: 5 }, dpo: { beta: 500 } },
    evaluation: { ...evaluation, limit: 1, metrics: evaluation.metrics.slice(0, 1) },
  };
  await mesh.create(run, 'objectives');
  const ended = await mesh.ended('objectives');
  expect(ended.reason).toBe('');
  expect(ended.status).toBe(RunStatus.SUCCEEDED);
  const report = (await readJson(join(mesh.runDirectory('objectives'), 'report.json'))) as Report;
  const models = ['base', 'sft', 'dpo', 'spin1', 'spin2'];
  expect(report.models.map(({ name }) => name)).toEqual(models);
  for (const { metrics } of report.models) expect(metrics['pickscore']).toMatchObject({ n: 1, mean: expect.any(Number) as number });
  const { dpo, spin1, spin2 } = report.curves;
  // At its first step a model is its opponent: the logit is 0.
  expect(dpo?.[0]?.loss).toBeCloseTo(Math.log(2), 6);
  expect(spin1?.[0]?.loss).toBeCloseTo(1 / 4, 6);
  // The second iteration begins at spin1 and plays against the base, which it is not.
  expect(spin2?.[0]?.loss).not.toBeCloseTo(1 / 4, 6);
  const lines = (await readFile(join(mesh.runDirectory('objectives'), 'metrics.jsonl'), 'utf8')).trim().split('\n');
  const steps = lines.map((line) => JSON.parse(line) as { model: string; step: number; beta: number; loserScale: number });
  for (const { model, step, beta, loserScale } of steps) {
    if (model === 'sft') expect([beta, loserScale]).toEqual([0, 0]);
    else expect(loserScale, `${model} ${step}`).toSatisfy((scale: number) => scale >= 0 && scale <= 1);
    if (model === 'dpo' && step === 1) expect(beta).toBe(500);
  }
  expect(steps).toHaveLength(8);
  expect(report.warnings).toContain('baselines.dpo: 1 of 4 rows have no rejected image; it trains on the other 3.');
});

it('refuses the baseline on data without pairs before anything runs', async () => {
  const config = { ...tinyConfig(), baselines: { dpo: { steps: 1 } } };
  await expect(mesh.create(config, 'unpaired')).rejects.toThrow(/baselines\.dpo: expected rows with a rejected image in .*, got none/);
});
