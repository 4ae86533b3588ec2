/** LoRA files as people bring them, on whole pipelines through the engine. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readSafetensors, writeSafetensorsFile, type TensorSource } from '@spindle/kit';
import {
  adaptedUnet,
  resolveScheduler,
  TextToImage,
  writeKohyaLora,
  writeRandomModel,
  type LoraFile,
} from '@spindle/models';
import { Engine, type TensorDto } from '@spindle/native';

let engine: Engine;
let scratch: string;
let model: string;
beforeAll(() => {
  engine = Engine.open({ threads: 2 });
  scratch = mkdtempSync(join(tmpdir(), 'lora-'));
  model = join(scratch, 'model');
  writeRandomModel(model, {
    release: 'sdxl',
    reduced: true,
    dtype: 'F32',
    variant: undefined,
    shardBytes: Number.POSITIVE_INFINITY,
    seed: 1,
  });
});
afterAll(() => {
  engine.close();
  rmSync(scratch, { recursive: true });
});

const rank = 2;
const floats = (bytes: Uint8Array): Float32Array =>
  new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
const source = (name: string, shape: number[], values: Float32Array): TensorSource => ({
  name,
  dtype: 'F32',
  shape,
  chunks: () => [new Uint8Array(values.buffer, values.byteOffset, values.byteLength)],
});
const waves = (count: number, phase: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => 0.3 * Math.sin(i * 1.7 + phase));

interface Layer {
  /** File of the model, and the weight (n, k) in it. */
  file: string;
  weight: string;
  n: number;
  k: number;
  /** How sd-scripts calls the layer. */
  kohya: string;
}

const layers: readonly Layer[] = [
  {
    file: 'unet/diffusion_pytorch_model.safetensors',
    weight: 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight',
    n: 24,
    k: 24,
    kohya: 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q',
  },
  {
    file: 'text_encoder/model.safetensors',
    weight: 'text_model.encoder.layers.0.self_attn.q_proj.weight',
    n: 24,
    k: 24,
    kohya: 'lora_te1_text_model_encoder_layers_0_self_attn_q_proj',
  },
  {
    file: 'text_encoder_2/model.safetensors',
    weight: 'text_model.encoder.layers.1.self_attn.v_proj.weight',
    n: 32,
    k: 32,
    kohya: 'lora_te2_text_model_encoder_layers_1_self_attn_v_proj',
  },
];
const down = (n: number, { k }: Layer): Float32Array => waves(rank * k, n);
const up = (n: number, layer: Layer): Float32Array => waves(layer.n * rank, n + 0.5);

function kohyaFile(name: string, among: (layer: Layer) => boolean = () => true): string {
  const path = join(scratch, name);
  writeSafetensorsFile(
    path,
    layers.flatMap((layer, n) =>
      among(layer)
        ? [
            source(`${layer.kohya}.lora_down.weight`, [rank, layer.k], down(n, layer)),
            source(`${layer.kohya}.lora_up.weight`, [layer.n, rank], up(n, layer)),
            source(`${layer.kohya}.alpha`, [], Float32Array.of(3)),
          ]
        : [],
    ),
  );
  return path;
}

/** A copy of the model whose weights have the adapters added, times `scale`. */
function merged(scale: number): string {
  const folder = join(scratch, `merged-${scale}`);
  cpSync(model, folder, { recursive: true });
  for (const [at, layer] of layers.entries()) {
    const path = join(folder, layer.file);
    const { tensors } = readSafetensors(readFileSync(path), path);
    writeSafetensorsFile(
      path,
      [...tensors].map(([name, tensor]) => {
        if (name !== layer.weight)
          return { name, dtype: tensor.dtype, shape: tensor.shape, chunks: () => [tensor.data] };
        expect(tensor.shape).toEqual([layer.n, layer.k]);
        const [a, b] = [down(at, layer), up(at, layer)];
        const sum = floats(tensor.data).map((weight, i) => {
          const [row, column] = [Math.floor(i / layer.k), i % layer.k];
          let added = 0;
          for (let r = 0; r < rank; r++) added += b[row * rank + r]! * a[r * layer.k + column]!;
          return weight + (scale * 3 * added) / rank;
        });
        return source(name, tensor.shape, sum);
      }),
    );
  }
  return folder;
}

interface Drawn {
  text: TensorDto;
  pooled: TensorDto | null;
  latents: TensorDto;
}

async function draw(folder: string, text: LoraFile[] = [], unetOnly = text): Promise<Drawn> {
  const loaded = await TextToImage.load(engine, folder, 'float32', text);
  const unet = await engine.loadUnet(
    adaptedUnet(loaded.pipeline, loaded.pipeline.unet, unetOnly),
    'float32',
  );
  try {
    const { text: states, pooled } = await loaded.textEncoder.encode(['a red dog']);
    const { latents } = await loaded.latents(unet, ['a red dog'], [1n], {
      schedulerConfig: resolveScheduler(loaded.pipeline.scheduler, '', ''),
      steps: 2,
      guidanceScale: 3,
      eta: 0,
      height: 0,
      width: 0,
      batchSize: 1,
    });
    return { text: states, pooled, latents };
  } finally {
    unet.release();
    loaded.release();
  }
}

const apart = (a: TensorDto | null, b: TensorDto | null): number =>
  Math.max(...[...(a?.data ?? [])].map((x, i) => Math.abs(x - (b?.data[i] ?? 0))));

it("sd-scripts' file of SDXL adapts U-Net and both text encoders as merged weights do", async () => {
  const path = kohyaFile('all.safetensors');
  const [base, added, whole] = [
    await draw(model),
    await draw(model, [{ path, scale: 0.5 }]),
    await draw(merged(0.5)),
  ];
  for (const part of ['text', 'pooled', 'latents'] as const) {
    expect(apart(added[part], whole[part]), part).toBeLessThan(1e-4);
    expect(apart(added[part], base[part]), part).toBeGreaterThan(1e-3);
  }
});

it('text encoders are left out where they are not given the file, and nothing else changes', async () => {
  const all = { path: kohyaFile('all.safetensors'), scale: 1 };
  const unet = {
    path: kohyaFile('unet.safetensors', ({ file }) => file.startsWith('unet')),
    scale: 1,
  };
  const [left, alone] = [await draw(model, [], [all]), await draw(model, [unet])];
  expect(left).toEqual(alone);
});

it('a file of a text encoder alone draws with the same U-Net', async () => {
  const path = kohyaFile('text.safetensors', ({ file }) => file.startsWith('text_encoder/'));
  const [base, added] = [await draw(model), await draw(model, [{ path, scale: 1 }])];
  expect(apart(added.text, base.text)).toBeGreaterThan(1e-3);
  expect(added.pooled).toEqual(base.pooled);
});

it('what no part of the pipeline has is refused by name, whichever part is loaded', async () => {
  const path = join(scratch, 'strange.safetensors');
  for (const [layer, message] of [
    ['lora_unet_input_blocks_9_1_proj_in', /linear layers and convolutions of this unet, got lora/],
    ['lora_te1_text_model_encoder_layers_77_mlp_fc1', /of this text_encoder, got lora_te1/],
    ['lora_te2_text_model_encoder_layers_77_mlp_fc1', /of this text_encoder_2, got lora_te2/],
  ] as const) {
    writeSafetensorsFile(path, [
      source(`${layer}.lora_down.weight`, [rank, 24], waves(rank * 24, 0)),
      source(`${layer}.lora_up.weight`, [24, rank], waves(rank * 24, 0)),
    ]);
    await expect(draw(model, [{ path, scale: 1 }])).rejects.toThrow(message);
  }
});

it("PEFT's folder is at the scale of its settings", async () => {
  const layer = layers[0]!;
  const name = `base_model.model.${layer.weight.replace(/\.weight$/, '')}`;
  const path = join(scratch, 'adapter_model.safetensors');
  writeSafetensorsFile(path, [
    source(`${name}.lora_A.weight`, [rank, layer.k], down(0, layer)),
    source(`${name}.lora_B.weight`, [layer.n, rank], up(0, layer)),
  ]);
  await expect(draw(model, [{ path, scale: 1 }])).rejects.toThrow(/adapter_config\.json beside/);
  writeFileSync(
    join(scratch, 'adapter_config.json'),
    JSON.stringify({ peft_type: 'LORA', r: rank, lora_alpha: 3 }),
  );
  const kohya = kohyaFile('unet.safetensors', ({ file }) => file.startsWith('unet'));
  expect(await draw(model, [{ path, scale: 1 }])).toEqual(
    await draw(model, [{ path: kohya, scale: 1 }]),
  );
});

it("ours under kohya's names draws the same bytes, for every base", async () => {
  for (const release of ['sd15', 'sdxl'] as const) {
    const folder = join(scratch, `base-${release}`);
    writeRandomModel(folder, {
      ...{ release, reduced: true, dtype: 'F32', variant: undefined, seed: 3 },
      shardBytes: Number.POSITIVE_INFINITY,
    });
    const file = join(folder, 'unet/diffusion_pytorch_model.safetensors');
    const { tensors } = readSafetensors(readFileSync(file), file);
    const targets = [...tensors].filter(([name]) =>
      /\.(to_q|to_out\.0|proj_in|net\.2)\.weight$/.test(name),
    );
    expect(targets.length).toBeGreaterThan(40);
    const own = join(scratch, `${release}-own.safetensors`);
    writeSafetensorsFile(
      own,
      targets.flatMap(([name, { shape }], i) => {
        const [n = 0, k = 0, ...ones] = shape;
        const layer = `unet.${name.replace(/\.weight$/, '')}`;
        return [
          source(`${layer}.lora_A.weight`, [rank, k, ...ones], waves(rank * k, i)),
          source(`${layer}.lora_B.weight`, [n, rank, ...ones], waves(n * rank, i + 0.5)),
        ];
      }),
    );
    const kohya = join(scratch, `${release}-kohya.safetensors`);
    writeKohyaLora(own, kohya, { model: folder, dtype: undefined });
    const [base, before, after] = [
      await draw(folder),
      await draw(folder, [], [{ path: own, scale: 0.1 }]),
      await draw(folder, [], [{ path: kohya, scale: 0.1 }]),
    ];
    expect(after).toEqual(before);
    expect(apart(before.latents, base.latents)).toBeGreaterThan(1e-3);
  }
});
