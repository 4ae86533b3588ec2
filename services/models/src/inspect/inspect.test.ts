import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { inspectFolder, type IntendedSampling } from './inspect.js';

const scenes = fileURLToPath(new URL('../../../../examples/scenes', import.meta.url));
const model = `${scenes}/tiny-sd`;

/** An engine that refuses `thresholding`, as the real one does, and remembers what it was asked. */
function engine() {
  const asked: { config: string; steps: number }[] = [];
  return {
    asked,
    inspectModel: () => ({ parameters: 1 }),
    schedulerTimesteps: (config: string, steps: number): Float64Array => {
      asked.push({ config, steps });
      if (config.includes('"thresholding":true')) {
        const message =
          'scheduler_config.json: thresholding: expected false (other values are not supported), got true';
        throw Object.assign(new Error(message), { code: 'INVALID_ARGUMENT' });
      }
      return new Float64Array();
    },
  };
}

const sampling: IntendedSampling = {
  scheduler: 'DDIMScheduler',
  overridesJson: '',
  steps: 20,
  eta: 0.5,
};

it("asks the engine about the intended schedule, or else about the pipeline's own", () => {
  const fake = engine();
  // Three levels of the U-Net, two halvings; the same of the VAE.
  const halved = { vaeScale: 4, unetScale: 4 };
  expect(inspectFolder(fake, model, sampling)).toMatchObject({
    kind: 'StableDiffusionPipeline',
    scheduler: 'PNDMScheduler',
    ...halved,
  });
  expect(
    fake.asked.map(({ config, steps }) => [
      config.includes('"_class_name":"DDIMScheduler"'),
      steps,
    ]),
  ).toEqual([[true, 20]]);
  fake.asked.length = 0;
  inspectFolder(fake, model);
  expect(fake.asked.map(({ config, steps }) => [config.includes('PNDMScheduler'), steps])).toEqual([
    [true, 4],
  ]);
});

it('refuses a scheduler option that the engine does not have, naming the scheduler', () => {
  expect(() =>
    inspectFolder(engine(), model, { ...sampling, overridesJson: '{"thresholding":true}' }),
  ).toThrow(/^DDIMScheduler: thresholding: expected false .*, got true$/);
});

it("refuses eta for a scheduler that has none, the pipeline's own too", () => {
  expect(() => inspectFolder(engine(), model, { ...sampling, scheduler: '' })).toThrow(
    'PNDMScheduler: eta: expected 0 (only DDIMScheduler takes another), got 0.5',
  );
});

it('says how wide the embedding is that a judge gives and that a head takes', () => {
  const clip = inspectFolder(engine(), `${scenes}/tiny-pickscore`);
  const head = inspectFolder(engine(), `${scenes}/tiny-aesthetic`);
  expect(clip.kind).toBe('CLIPModel');
  expect(head.kind).toBe('AestheticHead');
  expect(clip.embeddingWidth).toBeGreaterThan(0);
  expect(head.embeddingWidth).toBe(clip.embeddingWidth);
});
