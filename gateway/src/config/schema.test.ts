import { parseConfig } from '@spindle/kit';
import { expect, it } from 'vitest';
import { evaluationSampling } from './resolve.js';
import { stepsTaken, strengthOf } from './schema/sampling.js';
import { runConfigSchema } from './schema.js';

it("evaluation takes what it does not set from the run's sampling, not from defaults", () => {
  const config = parseConfig(
    runConfigSchema,
    {
      model: 'm',
      data: { path: 'd' },
      sampling: { steps: 20, guidance_scale: 3 },
      evaluation: { prompts: 'p', sampling: { steps: 10 } },
    },
    'config',
  );
  expect(evaluationSampling(config)).toMatchObject({ steps: 10, guidance_scale: 3, eta: 0 });
});

it('only what is drawn for training starts from images, and takes as many steps as diffusers', () => {
  const of = (sampling: object) =>
    parseConfig(runConfigSchema, { model: 'm', data: { path: 'd' }, sampling }, 'config');
  const config = of({ generated_from: 'image' });
  expect(strengthOf(config.sampling)).toBe(0.5);
  expect(strengthOf(evaluationSampling(of({ generated_from: 'image', strength: 0.3 })))).toBe(
    undefined,
  );
  expect(strengthOf(of({}).sampling)).toBe(undefined);
  // int(num_inference_steps * strength), in double precision: 0.58 * 50 is below 29.
  for (const [steps, strength, taken] of [
    [50, 0.58, 28],
    [50, 0.3, 15],
    [10, 1, 10],
    [7, 0.5, 3],
  ] as const)
    expect(stepsTaken(of({ generated_from: 'image', steps, strength }).sampling)).toBe(taken);
  expect(stepsTaken(of({ steps: 20 }).sampling)).toBe(20);
});
