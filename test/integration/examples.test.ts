/**
 * The configs of examples/ by `--dry-run`, on models of the released shapes and on stand-in data:
 * that they are valid, and that what they say of themselves is so.
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { exampleNames, layOutExamples } from '../harness/example-files.js';
import { Mesh } from '../harness/mesh.js';

let mesh: Mesh;
let folder: string;
let plans: Map<string, string>;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spindle-examples-'));
  mesh = await Mesh.start();
  await layOutExamples(folder);
  plans = new Map();
  for (const name of exampleNames) {
    const file = join(folder, `${name}.yaml`);
    const { code, stdout, stderr } = await mesh.spindle('run', file, '--dry-run');
    expect([name, code, stderr]).toEqual([name, 0, '']);
    plans.set(name, stdout);
  }
});
afterAll(async () => {
  await mesh.stop();
  await rm(folder, { recursive: true, force: true });
});

const planOf = (name: string): string => plans.get(name) ?? '';
const gigabytes = (plan: string): number =>
  Number(/^memory: training needs about ([\d.]+) GB/m.exec(plan)?.[1]);

// Beside what training needs: activations of a pair, and the sampler's models (some 5 GB for SD).
it.each([
  ['cpu-only', 16, 6],
  ['own-images-lora', 12, 6],
  ['sd21-v-prediction', 40, 12],
  ['sdxl-lora', 40, 24],
])('%s leaves room on the machine that its header names', (name, machine, beside) => {
  const header = readFileSync(join(folder, `${name}.yaml`), 'utf8').slice(0, 700);
  expect(header).toContain(`${machine} GB`);
  expect(gigabytes(planOf(name)) + beside).toBeLessThanOrEqual(machine);
});

it('reads 200 own images in the shapes that they have', () => {
  const plan = planOf('own-images-lora');
  expect(plan).toContain('data: 200 images');
  expect(plan).toContain('buckets: ');
  expect(plan).toContain('draw 400 images');
  // Nothing is wrong with the data: what is left are parts of the model that nobody needs.
  const warnings = plan.split('\n').filter((line) => line.startsWith('warning: '));
  expect(warnings.every((line) => /is not used$/.test(line))).toBe(true);
});

it('takes the prediction from the model', () => {
  expect(planOf('sd21-v-prediction')).toMatch(/768×768 pixels, .* v prediction/);
  expect(planOf('sdxl-lora')).toMatch(/2567\.5 M U-Net parameters, 1024×1024 pixels/);
});

it("says the paper's numbers of the paper's run", () => {
  const plan = planOf('sd15-pickapic');
  expect(plan).toContain('data: 851293 images');
  expect(plan).toContain('warning: data: 107747 rows are not used (tie)');
  const counts = [
    ['base', 'draw 102,400 images', 'train 50 steps of 2048 (102,400 pairs)', 'β 2000'],
    ['spin1', 'draw 851,293 images', 'train 500 steps of 2048 (1,024,000 pairs)', 'β 5000'],
    ['spin2', 'draw 409,600 images', 'train 200 steps of 2048 (409,600 pairs)', 'β 5000'],
  ];
  for (const [k, parts] of counts.entries()) {
    const line = plan.split('\n').find((text) => text.startsWith(`iteration ${k + 1}: `));
    for (const part of parts) expect(line).toContain(part);
  }
  expect(plan).toContain('baseline sft: train 2000 steps of 512 (1,024,000 images)');
  expect(plan).toContain(
    'judged after 4 of its steps by pickscore on 500 prompts, and the best of them is kept.',
  );
  expect(plan).toContain('baseline dpo: train 350 steps of 2048 (716,800 pairs)');
  expect(plan).toContain('evaluation: 5332 prompts and 500 to choose by × 5 images × 6 models');
  // 102,400 + 851,293 (every row once, though a fifth is read twice) + 409,600.
  expect(plan).toContain(
    'work: 1,536,000 pairs in all iterations, 1,363,293 images drawn for them',
  );
  // 1,363,293 / 4.8 / 3600; (1,536,000 + 716,800 + 1,024,000 × 3/8) / 60 / 3600.
  expect(plan).toContain('time: 79 h of drawing, 12 h of training (baselines too)');
  // Encoded rows and their rejected images 425 GB, drawn ones 89, weights 17, those that wait to be
  // judged 10, checkpoints 31, pictures 184.
  expect(plan).toContain('disk: about 757 GB');
});
