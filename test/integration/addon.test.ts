import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { componentSource } from '@spindle/models';
import {
  defaultAddonPath,
  Engine,
  loadAddon,
  type NativeAddon,
  type SampleRequestDto,
  type TensorDto,
  type TrainerOptionsDto,
  type Unet,
} from '@spindle/native';

const tinySd = fileURLToPath(new URL('../../examples/scenes/tiny-sd', import.meta.url));
const schedulerConfig = JSON.stringify({
  ...(JSON.parse(readFileSync(join(tinySd, 'scheduler/scheduler_config.json'), 'utf8')) as object),
  _class_name: 'DDIMScheduler',
});
const unetSource = componentSource(join(tinySd, 'unet'), 'diffusion_pytorch_model');

let engine: Engine;
let unet: Unet;
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'addon-'));
  engine = Engine.open({ threads: 2 });
  unet = await engine.loadUnet(unetSource, 'float32');
});
afterAll(() => {
  unet.release();
  engine.close();
  rmSync(folder, { recursive: true });
});

function noise(seed: bigint, shape: number[]): TensorDto {
  return {
    data: engine.initialNoise(
      seed,
      shape.reduce((a, b) => a * b),
    ),
    shape,
  };
}

function request(seeds: bigint[], change: Partial<SampleRequestDto> = {}): SampleRequestDto {
  const all = noise(99n, [8, 32, 128]);
  const cond = { data: all.data.slice(0, seeds.length * 32 * 128), shape: [seeds.length, 32, 128] };
  return {
    cond,
    uncond: noise(98n, [1, 32, 128]),
    condPooled: null,
    uncondPooled: null,
    timeIds: [],
    seeds,
    height: 8,
    width: 8,
    schedulerConfig,
    steps: 3,
    guidanceScale: 3,
    eta: 0,
    batchSize: seeds.length,
    images: null,
    strength: 1,
    ...change,
  };
}

const trainerOptions: TrainerOptionsDto = {
  objective: 'spin_logistic',
  beta: 4000,
  safeguard: null,
  timestepsPerPair: 1,
  timestepWeight: 'constant',
  minSnrGamma: 0,
  schedulerConfig,
  precision: 'float32',
  learningRate: 1e-4,
  schedule: 'linear',
  warmupSteps: 1,
  totalSteps: 4,
  adamBeta1: 0.9,
  adamBeta2: 0.999,
  adamEpsilon: 1e-8,
  weightDecay: 0.01,
  maxGradNorm: 1,
  emaDecay: 0.9,
  activationCheckpointing: false,
  lora: null,
  seed: 3n,
  iteration: 1,
};

describe('the addon', () => {
  it('offers every function of its typed surface', () => {
    const surface = readFileSync(
      new URL('../../native-cuda/ts/native.ts', import.meta.url),
      'utf8',
    ).split('export interface NativeAddon {')[1];
    const names = [...(surface ?? '').matchAll(/^ {2}(\w+)\(/gm)].map((match) => match[1]);
    expect(names.length).toBeGreaterThan(30);
    const addon: NativeAddon = loadAddon();
    expect(Object.keys(addon).sort()).toEqual(names.sort());
  });

  it('draws the same image whatever its batch, and tells every step', async () => {
    const steps: string[] = [];
    const both = await unet.sample(request([5n, 6n]), {
      onStep: (done, total) => steps.push(`${done}/${total}`),
    });
    expect(both.latents.shape).toEqual([2, 4, 8, 8]);
    expect(steps).toEqual(['1/3', '2/3', '3/3']);
    const oneByOne = await unet.sample(request([5n, 6n], { batchSize: 1 }));
    expect(oneByOne.latents.data).toEqual(both.latents.data);
    const alone = await unet.sample(request([5n]));
    expect(alone.latents.data).toEqual(both.latents.data.slice(0, 256));
  });

  it('stops between steps when told to, and works on', async () => {
    const controller = new AbortController();
    let last = 0;
    const stopped = unet.sample(request([5n], { steps: 500 }), {
      signal: controller.signal,
      onStep: (done) => {
        last = done;
        if (done === 2) controller.abort();
      },
    });
    await expect(stopped).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(last).toBeLessThan(500);
    expect((await unet.sample(request([5n]))).latents.shape).toEqual([1, 4, 8, 8]);
  });

  it('answers in the order of the calls and keeps a released model until they are done', async () => {
    const other = await engine.loadUnet(unetSource, 'float32');
    const order: number[] = [];
    const calls = [1, 2, 3].map((i) => other.sample(request([5n])).then(() => order.push(i)));
    other.release();
    await Promise.all(calls);
    expect(order).toEqual([1, 2, 3]);
    await expect(other.sample(request([5n]))).rejects.toThrow(/U-Net.*released/);
  });

  it('refuses bad values by field, before anything runs', async () => {
    const bad: [Partial<SampleRequestDto>, RegExp][] = [
      [{ seeds: [-1n] }, /request\.seeds\[0\]: expected 0 to 2\^64 - 1/],
      [{ steps: Number.NaN }, /request\.steps: expected a finite number/],
      [{ steps: 1.5 }, /request\.steps: expected an integer, got 1.5/],
      [
        { cond: { data: new Float32Array(3), shape: [1, 32, 128] } },
        /request\.cond\.data: expected the 4096 values of its shape, got 3/,
      ],
      [{ schedulerConfig: '{' }, /scheduler_config\.json: expected JSON/],
      [
        { schedulerConfig: '{"_class_name":"DDIMScheduler","thresholding":true}' },
        /thresholding: expected false/,
      ],
    ];
    for (const [change, message] of bad) {
      await expect(unet.sample(request([5n], change))).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(message) as string,
      });
    }
    expect(() => Engine.open({ backend: 'abacus' })).toThrow(
      /backend: expected auto, cuda, cuda:N, cpu or reference, got abacus/,
    );
    const addon = loadAddon();
    const cancel = addon.createCancel();
    expect(() => addon.unetInfo(cancel as never)).toThrow(
      /expected a U-Net, got another kind of handle/,
    );
    expect(() => addon.unetInfo({} as never)).toThrow(/expected a U-Net, got something else/);
  });

  it('resumes training from a saved state to the same bytes', async () => {
    const batch = (step: number) => ({
      step,
      offset: 0,
      stepBatchSize: 2,
      last: true,
      later: true, // a CPU has nothing to wait for: it tells at once
      real: noise(11n, [2, 4, 8, 8]),
      generated: noise(12n, [2, 4, 8, 8]),
      text: noise(13n, [2, 32, 128]),
      beta: null,
      pooled: null,
      timeIds: null,
    });
    const state = join(folder, 'state.safetensors');
    const first = await engine.createTrainer(unetSource, null, trainerOptions);
    const started = (await first.accumulate(batch(0))).errors;
    expect(started?.loss).toBeCloseTo(Math.log(2), 6);
    expect(started?.errorReal).toEqual(started?.opponentErrorReal);
    const applied = await first.apply(0);
    expect(applied.gradNorm).toBeGreaterThan(0);
    expect(applied.errors).toEqual([]);
    await first.saveState(state, { step: '1' });
    await first.accumulate(batch(1));
    await first.apply(1);
    await first.export(join(folder, 'a.safetensors'), true);

    const second = await engine.createTrainer(unetSource, null, trainerOptions);
    expect(await second.loadState(state)).toEqual({ step: '1' });
    // One that came early is the same.
    const early = batch(1);
    await second.prefetch(early);
    await second.accumulate({ ...early, beta: null });
    await second.apply(1);
    await second.export(join(folder, 'b.safetensors'), true);
    expect(
      readFileSync(join(folder, 'b.safetensors')).equals(
        readFileSync(join(folder, 'a.safetensors')),
      ),
    ).toBe(true);
    // What was exported loads as a U-Net again.
    const trained = await engine.loadUnet(
      { ...unetSource, weights: [join(folder, 'a.safetensors')] },
      'float32',
    );
    expect(trained.info.parameters).toBe(unet.info.parameters);
    for (const handle of [first, second, trained]) handle.release();
    expect(readdirSync(folder).sort()).toEqual([
      'a.safetensors',
      'b.safetensors',
      'state.safetensors',
    ]);
  });

  it('lets the process exit with a call in flight', async () => {
    const script = `
      const addon = require(${JSON.stringify(defaultAddonPath())});
      const { source, request } = JSON.parse(process.env.ADDON_TEST);
      const engine = addon.createEngine({ backend: 'cpu', threads: 2, isa: 'auto' });
      const tensor = (shape) => ({ data: new Float32Array(shape.reduce((a, b) => a * b)), shape });
      addon.loadUnet(engine, source, 'float32').then((unet) => {
        addon.sample(unet, { ...request, cond: tensor([1, 32, 128]), uncond: tensor([1, 32, 128]), seeds: [1n] }, null, () => process.exit(7));
      });`;
    const env = {
      ...process.env,
      ADDON_TEST: JSON.stringify({
        source: unetSource,
        request: { ...request([]), seeds: [], steps: 900, batchSize: 1 },
      }),
    };
    const failed = promisify(execFile)(process.execPath, ['-e', script], { env }).catch(
      (error: unknown) => error,
    );
    expect(await failed).toMatchObject({ code: 7, stderr: '' });
  });

  it('lets the process end by itself when nothing is in flight', async () => {
    const script = `require(${JSON.stringify(defaultAddonPath())}).createEngine({ backend: 'cpu', threads: 2, isa: 'auto' });`;
    await expect(promisify(execFile)(process.execPath, ['-e', script])).resolves.toMatchObject({
      stderr: '',
    });
  });
});
