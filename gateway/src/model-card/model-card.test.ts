import { expect, it } from 'vitest';
import { parse } from 'yaml';
import { parseRunConfig } from '../config/load.js';
import { spin as spinModel } from '../domain/model.js';
import { planOf } from '../server/create-run.js';
import { modelCard, type CardInput } from './model-card.js';
import { readCardReport } from './report.js';

const config = parseRunConfig(
  {
    model: '/home/me/models/stable-diffusion-v1-5',
    data: { path: '/data/pickapic' },
    objective: { beta: [2000, 5000] },
    iterations: 2,
    train: { batch_size: 2048, gradient_accumulation: 64, learning_rate: 2e-5, warmup_steps: 200 },
    baselines: { sft: { steps: 100, warmup_steps: 0 } },
    evaluation: {
      prompts: '/data/test.txt',
      metrics: [{ name: 'pick', kind: 'pickscore', model: '/judges/pick' }],
    },
  },
  'config',
);
const numbers = { median: 21, standard_error: 0.1, n: 500 };
const base = {
  ...numbers,
  mean: 20.68,
  mean_low: 20.6,
  mean_high: 20.8,
  win_rate: 0.5,
  difference_low: 0,
  difference_high: 0,
  p_value: 1,
};
const spin = {
  ...numbers,
  mean: 21.4,
  mean_low: 21.3,
  mean_high: 21.5,
  win_rate: 0.72,
  difference_low: 0.6,
  difference_high: 0.85,
  p_value: 0.0002,
};
const report = JSON.stringify({
  models: [
    { name: 'base', metrics: { pick: base } },
    { name: 'spin2', metrics: { pick: spin } },
  ],
  judges: {
    pick: {
      kind: 'pickscore',
      files: [{ name: 'model.safetensors', digest: 'sha256:ab' }],
      variant: 'v1',
      scale: '100 · cosine',
      preprocess: 't',
    },
  },
});

const card = (more: Partial<CardInput> = {}): string =>
  modelCard({
    ...{
      runId: 'r1',
      model: spinModel(2),
      config,
      plan: planOf(config, 'r1', 1000, { all: 500, select: 0 }),
      resolution: 512,
      whole: true,
      warnings: ['one caption was cut'],
    },
    ...readCardReport(report, 'report.json'),
    ...more,
  });

it('a model card has what the hub reads, base, data, objective, settings, scores with intervals and how to load it', () => {
  const text = card();
  const [, front = ''] = text.split('---\n');
  expect(parse(front)).toMatchObject({
    base_model: 'stable-diffusion-v1-5',
    library_name: 'diffusers',
    pipeline_tag: 'text-to-image',
    tags: expect.arrayContaining(['text-to-image', 'spin-diffusion']) as string[],
  });
  expect(text).toContain('Iteration 2 of 2 of self-play');
  expect(text).toContain('its opponent `spin1`');
  expect(text).toContain('| data | pickapic: 1000 images, 512 × 512 |');
  expect(text).toContain('| objective | SPIN, logistic loss |');
  const objective = {
    ...{ ...config.objective, timesteps_per_pair: 4, timestep_weight: 'paper' as const },
    ...{ refresh_steps: 50, keep_if: { metric: 'pick', margin: 0.5 } },
  };
  expect(card({ config: { ...config, objective } })).toContain(
    '| objective | SPIN, logistic loss, 4 timesteps per pair, timestep weight paper, opponent ' +
      'taken anew every 50 steps, pairs that pick scores at most 0.5 higher as drawn |',
  );
  expect(text).toContain('| β | 5000 |');
  expect(text).toContain('| learning rate | 0.00002, linear, 200 steps of warm-up |');
  expect(text).toContain('| base | 20.680 (20.600 to 20.800) | 21.000 |  | |  | 500 |');
  expect(text).toContain(
    '| **spin2** | 21.400 (21.300 to 21.500) | 21.000 | 72.0 % | 0.600 to 0.850 | 0.00020 | 500 |',
  );
  expect(text).toContain(
    'Judge: pickscore; v1; 100 · cosine; preprocessing t; model.safetensors sha256:ab',
  );
  expect(text).toContain('DiffusionPipeline.from_pretrained("path/to/this/folder")');
  expect(text).toContain('- one caption was cut');
  expect(text, "folders of the machine are nobody's business").not.toMatch(
    /\/home|\/data\/|\/judges/,
  );
});

it('a card of a U-Net alone says what to put it into; a baseline is called one; without judges it says so', () => {
  expect(card({ whole: false })).toContain(
    'DiffusionPipeline.from_pretrained("path/to/stable-diffusion-v1-5", unet=unet)',
  );
  const sft = card({ model: { kind: 'sft' }, models: [], judges: {}, warnings: [] });
  expect(sft).toContain('fine-tuned on the images alone (SFT): a baseline');
  expect(sft).toContain('| steps | 100 |');
  expect(sft).not.toContain('| β |');
  expect(sft).toContain('The run had no judges');
});
