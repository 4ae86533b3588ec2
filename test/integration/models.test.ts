/**
 * Model folders as they are published: every release at full size by its headers, and reduced ones
 * through the whole engine.
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { execFile } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readSafetensors } from '@spindle/kit';
import {
  componentSource,
  inspectFolder,
  parameterCount,
  readPipeline,
  releaseConfigs,
  releases,
  resolveScheduler,
  stringifyJson,
  TextToImage,
  textShapes,
  unetShapes,
  vaeShapes,
  writeRandomModel,
  type DrawOptions,
  type RandomModelOptions,
  type Shapes,
} from '@spindle/models';
import {
  Engine,
  type ModelSourceDto,
  type TensorDto,
  type TrainBatchDto,
  type TrainerOptionsDto,
} from '@spindle/native';

let engine: Engine;
let scratch: string;
beforeAll(() => {
  engine = Engine.open({ threads: 2 });
  scratch = mkdtempSync(join(tmpdir(), 'models-'));
});
afterAll(() => {
  engine.close();
  rmSync(scratch, { recursive: true });
});

function randomModel(name: string, options: Partial<RandomModelOptions> = {}): string {
  const folder = join(scratch, name);
  if (!existsSync(folder))
    writeRandomModel(folder, {
      release: 'sd15',
      reduced: true,
      dtype: 'F32',
      variant: undefined,
      shardBytes: Number.POSITIVE_INFINITY,
      seed: 1,
      ...options,
    });
  return folder;
}

/** A safetensors file of full size whose data is a hole: enough for what reads headers. */
function hollow(folder: string, stem: string, shapes: Shapes, config: object): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  let at = 0;
  const header = Object.fromEntries(
    [...shapes].map(([name, shape]) => {
      const begin = at;
      at += shape.reduce((product, n) => product * n, 4);
      return [name, { dtype: 'F32', shape, data_offsets: [begin, at] }];
    }),
  );
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(join(folder, `${stem}.safetensors`), 'w');
  writeSync(file, Buffer.concat([prefix, text]));
  ftruncateSync(file, 8 + text.length + at);
  closeSync(file);
}

const published = {
  sd15: { unet: 859_520_964, vae: 83_653_863, text: [123_060_480] },
  sd21: { unet: 865_910_724, vae: 83_653_863, text: [340_387_840] },
  sdxl: { unet: 2_567_463_684, vae: 83_653_863, text: [123_060_480, 694_659_840] },
};

describe.each(releases)('%s at full size', (release) => {
  it('has the published number of parameters, under the names and in the shapes that the engine computes with', () => {
    const configs = releaseConfigs(release);
    const parts: [string, 'unet' | 'vae' | 'clip_text', Shapes, object, number][] = [
      ['unet', 'unet', unetShapes(configs.unet), configs.unet, published[release].unet],
      [
        'vae',
        'vae',
        vaeShapes(configs.vae, release !== 'sdxl'),
        configs.vae,
        published[release].vae,
      ],
      ...configs.textEncoders.map((config, n): [string, 'clip_text', Shapes, object, number] => [
        `text${n}`,
        'clip_text',
        textShapes(config),
        config,
        published[release].text[n] ?? 0,
      ]),
    ];
    for (const [name, kind, shapes, config, count] of parts) {
      expect(parameterCount(shapes), name).toBe(count);
      const folder = join(scratch, `${release}-full`, name);
      const stem = kind === 'clip_text' ? 'model' : 'diffusion_pytorch_model';
      hollow(folder, stem, shapes, config);
      expect(engine.inspectModel(kind, componentSource(folder, stem)).parameters, name).toBe(count);
    }
    rmSync(join(scratch, `${release}-full`), { recursive: true });
  });
});

const drawing = (model: TextToImage, change: Partial<DrawOptions> = {}): DrawOptions => ({
  schedulerConfig: resolveScheduler(model.pipeline.scheduler, '', ''),
  steps: 2,
  guidanceScale: 5,
  eta: 0,
  height: 0,
  width: 0,
  batchSize: 2,
  ...change,
});

async function draw(
  folder: string,
  prompts: string[],
  change: Partial<DrawOptions> = {},
): Promise<TensorDto> {
  const model = await TextToImage.load(engine, folder, 'float32');
  const unet = await engine.loadUnet(model.pipeline.unet, 'float32');
  try {
    const { latents } = await model.latents(
      unet,
      prompts,
      prompts.map((_, i) => BigInt(i)),
      drawing(model, change),
    );
    const pixels = await model.decode(latents, 1);
    expect(pixels.data.every(Number.isFinite)).toBe(true);
    return latents;
  } finally {
    unet.release();
    model.release();
  }
}

const distance = (a: TensorDto, b: TensorDto): number =>
  Math.sqrt(
    a.data.reduce((sum, x, i) => sum + (x - (b.data[i] ?? 0)) ** 2, 0) /
      b.data.reduce((sum, x) => sum + x * x, 0),
  );

describe('files', () => {
  it('draws the same from one file, from shards with an index, and from a variant when the plain file is missing', async () => {
    const whole = await draw(randomModel('whole'), ['a red dog']);
    expect(whole.shape).toEqual([1, 4, 8, 8]);
    const sharded = randomModel('sharded', { shardBytes: 200_000 });
    expect(existsSync(join(sharded, 'unet/diffusion_pytorch_model.safetensors.index.json'))).toBe(
      true,
    );
    expect((await draw(sharded, ['a red dog'])).data).toEqual(whole.data);
    expect(
      (await draw(randomModel('variant', { variant: 'fp16', shardBytes: 200_000 }), ['a red dog']))
        .data,
    ).toEqual(whole.data);
  });

  it.each([
    ['F16', 5e-3],
    ['BF16', 4e-2],
  ] as const)('reads %s weights', async (dtype, tolerance) => {
    const [whole, rounded] = [
      await draw(randomModel('whole'), ['a red dog']),
      await draw(randomModel(dtype, { dtype }), ['a red dog']),
    ];
    expect(distance(rounded, whole)).toBeLessThan(tolerance);
    expect(distance(rounded, whole)).toBeGreaterThan(0);
  });

  it('takes the variant that is asked for, and says so when it is not there', () => {
    const folder = randomModel('both');
    writeRandomModel(folder, {
      release: 'sd15',
      reduced: true,
      dtype: 'F16',
      variant: 'fp16',
      shardBytes: 1e9,
      seed: 1,
    });
    expect(readPipeline(folder).unet.weights[0]).toMatch(
      /unet\/diffusion_pytorch_model\.safetensors$/,
    );
    expect(readPipeline(`${folder}@fp16`).textTowers[0]?.source.weights[0]).toMatch(
      /text_encoder\/model\.fp16\.safetensors$/,
    );
    expect(() => readPipeline(`${folder}@bf16`)).toThrow(
      /both\/unet: expected diffusion_pytorch_model\.bf16\.safetensors or its index \(variant "bf16"\), got diffusion_pytorch_model\.fp16\.safetensors, diffusion_pytorch_model\.safetensors$/,
    );
    expect(inspectFolder(engine, `${folder}@fp16`).warnings).toHaveLength(2);
    rmSync(join(folder, 'vae/diffusion_pytorch_model.fp16.safetensors'));
    expect(inspectFolder(engine, `${folder}@fp16`).warnings).toContainEqual(
      expect.stringMatching(
        /both\/vae: no weights of variant "fp16"; diffusion_pytorch_model\.safetensors is used$/,
      ),
    );
  });

  it('ignores the safety checker and the feature extractor with a word', () => {
    const { kind, warnings } = inspectFolder(engine, randomModel('whole'));
    expect(kind).toBe('StableDiffusionPipeline');
    expect(warnings).toEqual([
      expect.stringMatching(/model_index\.json: safety_checker is not used$/),
      expect.stringMatching(/model_index\.json: feature_extractor is not used$/),
    ]);
  });

  it('reads Stable Diffusion 2.1: velocity, and a text encoder of another family', async () => {
    const folder = randomModel('sd21', { release: 'sd21', dtype: 'F16' });
    expect(inspectFolder(engine, folder)).toMatchObject({
      predictionType: 'v_prediction',
      scheduler: 'DDIMScheduler',
      textWidth: 24,
    });
    expect((await draw(folder, ['a red dog'])).shape).toEqual([1, 4, 8, 8]);
  });
});

async function probe(
  service: 'trainer' | 'sampler',
  request: object,
): Promise<Record<string, unknown>> {
  const program = fileURLToPath(
    new URL(`../../services/${service}/dist/probe/main.js`, import.meta.url),
  );
  const { stdout } = await promisify(execFile)(process.execPath, [
    program,
    JSON.stringify(request),
  ]);
  return JSON.parse(stdout) as Record<string, unknown>;
}

const training = (schedulerConfig: string): TrainerOptionsDto => ({
  objective: 'spin_logistic',
  beta: 2000,
  safeguard: null,
  timestepsPerPair: 1,
  timestepWeight: 'constant',
  minSnrGamma: 0,
  schedulerConfig,
  precision: 'float32',
  learningRate: 1e-4,
  schedule: 'constant',
  warmupSteps: 0,
  totalSteps: 2,
  adamBeta1: 0.9,
  adamBeta2: 0.999,
  adamEpsilon: 1e-8,
  weightDecay: 0.01,
  maxGradNorm: 1,
  emaDecay: 0,
  activationCheckpointing: false,
  lora: null,
  seed: 3n,
  iteration: 1,
});

describe('SDXL', () => {
  it('puts the hidden states of both text encoders side by side, and pools the second', async () => {
    const folder = randomModel('sdxl', { release: 'sdxl' });
    expect(inspectFolder(engine, folder)).toMatchObject({
      kind: 'StableDiffusionXLPipeline',
      textWidth: 56,
      warnings: [],
    });
    const model = await TextToImage.load(engine, folder, 'float32');
    const prompts = ['a red dog', 'two blue birds on a wire'];
    const { text, pooled } = await model.textEncoder.encode(prompts);
    expect(text.shape).toEqual([2, 77, 56]);
    expect(pooled?.shape).toEqual([2, 32]);
    for (const [n, { from, width }] of [
      { from: 0, width: 24 },
      { from: 24, width: 32 },
    ].entries()) {
      const tower = model.pipeline.textTowers[n];
      if (tower === undefined) throw new Error('expected two towers');
      const alone = await engine.loadClipText(tower.source, 'float32');
      const ids = Int32Array.from(
        prompts.flatMap((prompt) => tower.tokenizer.encode(prompt, 77).ids),
      );
      const states = await alone.encode(ids, 2);
      for (const row of [0, 5, 76, 77, 153])
        expect(text.data.slice(row * 56 + from, row * 56 + from + width)).toEqual(
          states.penultimate.data.slice(row * width, (row + 1) * width),
        );
      if (n === 1) expect(pooled?.data).toEqual(states.pooled.data);
      alone.release();
    }
    // The two tokenizers pad differently.
    expect(model.pipeline.textTowers.map(({ tokenizer }) => tokenizer.padId)).toEqual([599, 0]);
    const empty = await model.textEncoder.empty();
    expect([empty.text.shape, empty.pooled?.shape]).toEqual([
      [1, 77, 56],
      [1, 32],
    ]);
    expect(empty.text.data.every((x) => x === 0)).toBe(true);
    model.release();
  });

  it('draws from prompts: an image does not depend on its batch, but on prompt, pooled text and size', async () => {
    const folder = randomModel('sdxl', { release: 'sdxl' });
    const both = await draw(folder, ['a red dog', 'two blue birds']);
    expect(both.shape).toEqual([2, 4, 8, 8]);
    expect((await draw(folder, ['a red dog', 'two blue birds'], { batchSize: 1 })).data).toEqual(
      both.data,
    );
    const model = await TextToImage.load(engine, folder, 'float32');
    const unet = await engine.loadUnet(model.pipeline.unet, 'float32');
    const [text, empty] = [
      await model.textEncoder.encode(['a red dog']),
      await model.textEncoder.empty(),
    ];
    const asked = {
      cond: text.text,
      uncond: empty.text,
      condPooled: text.pooled,
      uncondPooled: empty.pooled,
      timeIds: [64, 64, 0, 0, 64, 64],
      seeds: [0n],
      images: null,
      strength: 1,
      ...drawing(model, { height: 8, width: 8 }),
    };
    expect((await unet.sample(asked)).latents.data).toEqual(both.data.slice(0, 256));
    for (const change of [
      { timeIds: [64, 64, 8, 0, 64, 64] },
      { condPooled: empty.pooled },
      { uncondPooled: text.pooled },
    ])
      expect((await unet.sample({ ...asked, ...change })).latents.data).not.toEqual(
        both.data.slice(0, 256),
      );
    await expect(unet.sample({ ...asked, condPooled: null })).rejects.toThrow(
      /cond_pooled and time_ids: expected both/,
    );
    unet.release();
    model.release();
  });

  it('trains on pairs that carry pooled text, sizes and crop', async () => {
    const folder = randomModel('sdxl', { release: 'sdxl' });
    const model = await TextToImage.load(engine, folder, 'float32');
    const { unet, scheduler } = model.pipeline;
    const { text, pooled } = await model.textEncoder.encode(['a red dog', 'two blue birds']);
    const latents = (seed: bigint): TensorDto => ({
      data: engine.initialNoise(seed, 512),
      shape: [2, 4, 8, 8],
    });
    const batch: TrainBatchDto = {
      step: 0,
      offset: 0,
      stepBatchSize: 2,
      last: true,
      later: false,
      real: latents(1n),
      generated: latents(2n),
      text,
      pooled,
      beta: null,
      timeIds: {
        data: Float32Array.from([480, 640, 0, 11, 64, 64, 64, 64, 0, 0, 64, 64]),
        shape: [2, 6],
      },
    };
    const trainer = await engine.createTrainer(unet, null, training(stringifyJson(scheduler)));
    const first = await trainer.accumulate(batch).then(({ errors }) => errors!);
    // The model is its own opponent before the first step.
    expect(first.loss).toBeCloseTo(Math.log(2), 5);
    expect([...first.errorReal]).toEqual([...first.opponentErrorReal]);
    const { gradNorm } = await trainer.apply(0);
    expect(gradNorm).toBeGreaterThan(0);
    const second = await trainer.accumulate({ ...batch, step: 1 });
    expect(second.errors?.loss).not.toBeCloseTo(Math.log(2), 5);
    const moved = await engine.createTrainer(unet, null, training(stringifyJson(scheduler)));
    const elsewhere = await moved.accumulate({
      ...batch,
      timeIds: { data: new Float32Array(12).fill(64), shape: [2, 6] },
    });
    expect(elsewhere.errors?.errorReal).not.toEqual(first.errorReal);
    await expect(moved.accumulate({ ...batch, pooled: null })).rejects.toThrow(
      /pooled and time_ids: expected both/,
    );
    const out = join(scratch, 'sdxl-trained');
    mkdirSync(out, { recursive: true });
    await trainer.export(join(out, 'diffusion_pytorch_model.safetensors'), false);
    writeFileSync(join(out, 'config.json'), readFileSync(join(folder, 'unet/config.json')));
    expect(inspectFolder(engine, out)).toMatchObject({
      kind: 'UNet2DConditionModel',
      parameters: { unet: expect.any(Number) as number },
    });
    trainer.release();
    moved.release();
    model.release();
  });

  it('trains adapters, with their layers computed again in backward, which load on the base under the names of PEFT', async () => {
    const folder = randomModel('sdxl', { release: 'sdxl' });
    const { unet, scheduler, textTokens, textWidth, pooledWidth } = readPipeline(folder);
    const noise = (seed: bigint, ...shape: number[]): TensorDto => ({
      data: engine.initialNoise(
        seed,
        shape.reduce((product, n) => product * n, 1),
      ),
      shape,
    });
    const timeIds = {
      data: Float32Array.from([480, 640, 0, 11, 64, 64, 64, 64, 0, 0, 64, 64]),
      shape: [2, 6],
    };
    const batch: Omit<TrainBatchDto, 'step'> = {
      ...{ offset: 0, stepBatchSize: 2, last: true, later: false, beta: null, timeIds },
      ...{
        real: noise(1n, 2, 4, 8, 8),
        generated: noise(2n, 2, 4, 8, 8),
        text: noise(3n, 2, textTokens, textWidth),
      },
      pooled: noise(4n, 2, pooledWidth),
    };
    const lora = { rank: 2, alpha: 2, targets: ['to_q', 'to_k', 'to_v', 'to_out.0', 'proj_in'] };
    const files: Buffer[] = [];
    const path = join(scratch, 'sdxl-adapters.safetensors');
    for (const activationCheckpointing of [false, true]) {
      const options = {
        ...training(stringifyJson(scheduler)),
        lora,
        activationCheckpointing,
        learningRate: 1e-2,
      };
      const trainer = await engine.createTrainer(unet, null, options);
      expect((await trainer.accumulate({ ...batch, step: 0 })).errors?.loss).toBeCloseTo(
        Math.log(2),
        5,
      );
      await trainer.apply(0);
      expect((await trainer.accumulate({ ...batch, step: 1 })).errors?.loss).not.toBeCloseTo(
        Math.log(2),
        4,
      );
      await trainer.exportAdapters(path, false);
      files.push(readFileSync(path));
      trainer.release();
    }
    expect(files[1]).toEqual(files[0]);
    const names = [...readSafetensors(readFileSync(path), path).tensors.keys()];
    // SDXL's transformers have linear projections, and several blocks each.
    expect(names).toContain(
      'unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.lora_A.weight',
    );
    expect(names).toContain('unet.mid_block.attentions.0.proj_in.lora_B.weight');
    // A second iteration begins where the first one ended, and plays against it.
    const again = await engine.createTrainer(
      { ...unet, adapters: [{ path, scale: 1 }] },
      { ...unet, adapters: [{ path, scale: 1 }] },
      { ...training(stringifyJson(scheduler)), lora },
    );
    expect((await again.accumulate({ ...batch, step: 0 })).errors?.loss).toBeCloseTo(
      Math.log(2),
      5,
    );
    again.release();
    const text = await TextToImage.load(engine, folder, 'float32');
    const drawWith = async (source: ModelSourceDto): Promise<TensorDto> => {
      const loaded = await engine.loadUnet(source, 'float32');
      const { latents } = await text.latents(loaded, ['a red dog'], [1n], {
        ...{
          schedulerConfig: stringifyJson(scheduler),
          steps: 2,
          guidanceScale: 3,
          eta: 0,
          height: 64,
          width: 64,
          batchSize: 1,
        },
      });
      loaded.release();
      return latents;
    };
    const merged = join(scratch, 'sdxl-merged.safetensors');
    const trainer = await engine.createTrainer({ ...unet, adapters: [{ path, scale: 1 }] }, null, {
      ...training(stringifyJson(scheduler)),
      lora,
    });
    await trainer.export(merged, false);
    trainer.release();
    const [base, added, whole] = [
      await drawWith(unet),
      await drawWith({ ...unet, adapters: [{ path, scale: 1 }] }),
      await drawWith({ ...unet, weights: [merged] }),
    ];
    expect(distance(added, base)).toBeGreaterThan(1e-3);
    expect(distance(added, whole)).toBeLessThan(1e-4);
    text.release();
  });

  it.each(['unet_forward', 'spin_step', 'sample'])('is timed by bench: %s', async (task) => {
    const { values } = await engine.bench({
      ...{
        task,
        model: randomModel('sdxl', { release: 'sdxl' }),
        precision: 'float32',
        batch: 2,
        steps: 2,
      },
      ...{ repeat: 1, warmup: 0, checkpointing: false, profile: false },
    });
    expect(values['seconds_median']).toBeGreaterThan(0);
  });

  it('is probed for memory and time by the programs that would train it and draw from it', async () => {
    const common = {
      model: randomModel('sdxl', { release: 'sdxl' }),
      resolution: 64,
      precision: 'float32',
    };
    const settings = {
      ...{ batchSize: 4, gradientAccumulation: 2, beta: 2000, learningRate: 1e-4 },
      ...{ adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, maxGradNorm: 1, emaDecay: 0.9 },
      ...{ activationCheckpointing: true, captionDropout: 0.1 },
      schedule: 'LEARNING_RATE_SCHEDULE_CONSTANT',
    };
    const training = {
      ...common,
      objective: 'spin_logistic',
      settings,
      folder: tmpdir(),
      saves: true,
    };
    const sampling = {
      ...common,
      sampling: { guidanceScale: 5, height: 64, width: 64 },
      evaluation: { scheduler: 'HeunDiscreteScheduler', steps: 7, height: 64, width: 64 },
      shardSize: 2,
      unets: 2,
      decodes: true,
    };
    const lora = { rank: 2, alpha: 2, targets: ['to_q', 'to_k', 'to_v', 'to_out.0'] };
    const [trainer, sampler, adapters] = await Promise.all([
      probe('trainer', training),
      probe('sampler', sampling),
      probe('trainer', { ...training, settings: { ...settings, lora } }),
    ]);
    expect(Object.keys(trainer).sort()).toEqual([
      'applySeconds',
      'checkpointSeconds',
      'exportSeconds',
      'loadSeconds',
      'microBatchSeconds',
      'peakBytes',
      'precision',
    ]);
    expect(Object.keys(sampler).sort()).toEqual([
      'callSeconds',
      'decodeSeconds',
      'drawCalls',
      'encodeSeconds',
      'evaluateCalls',
      'peakBytes',
      'pipelineLoadSeconds',
      'precision',
      'unetLoadSeconds',
    ]);
    // Two calls per step of Heun's, but for the last one.
    expect(sampler).toMatchObject({ drawCalls: 50, evaluateCalls: 13 });
    // No gradients, moments, average and opponent of the whole U-Net.
    expect(adapters['peakBytes']).toBeLessThan(Number(trainer['peakBytes']));
    for (const report of [trainer, sampler, adapters]) {
      const { precision, ...numbers } = report;
      expect(precision).toBe('float32');
      expect(Object.values(numbers).every((value) => typeof value === 'number' && value > 0)).toBe(
        true,
      );
    }
  });

  it('is refused by name where its parts do not fit', () => {
    const folder = randomModel('sdxl-broken', { release: 'sdxl' });
    const file = join(folder, 'text_encoder_2/config.json');
    const config = JSON.parse(readFileSync(file, 'utf8')) as object;
    writeFileSync(file, JSON.stringify({ ...config, projection_dim: 16 }));
    expect(() => readPipeline(folder)).toThrow(
      /unet\/config\.json: projection_class_embeddings_input_dim: expected 64 .* got 80/,
    );
    writeFileSync(file, JSON.stringify({ ...config, architectures: ['CLIPTextModel'] }));
    expect(() => readPipeline(folder)).toThrow(
      /text_encoder_2\/config\.json: architectures: expected \["CLIPTextModelWithProjection"\]/,
    );
  });
});
