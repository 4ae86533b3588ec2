import { parseConfig } from '@spindle/kit';
import { expect, it } from 'vitest';
import { evaluationSampling } from './resolve.js';
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
