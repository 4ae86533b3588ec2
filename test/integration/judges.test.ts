/** Every kind of judge from files on disk, on the engine. */
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  decodeImageFile,
  inspectFolder,
  inspectJudge,
  loadJudge,
  type JudgeSpec,
} from '@spindle/models';
import { Engine, type RgbImage } from '@spindle/native';

const root = fileURLToPath(new URL('../..', import.meta.url));
const pick = join(root, 'examples/scenes/tiny-pickscore');
const fixture = (name: string): string => join(root, 'test/fixtures', name);
const texts = ['a red circle', 'a blue square above a green triangle'];

let engine: Engine;
let folder: string;
let images: RgbImage[];

interface Tensor {
  shape: number[];
  data: Float32Array;
}

function readTensors(file: string): Map<string, Tensor> {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<
    string,
    { shape: number[]; data_offsets: [number, number] }
  >;
  return new Map(
    Object.entries(header)
      .filter(([name]) => name !== '__metadata__')
      .map(
        ([
          name,
          {
            shape,
            data_offsets: [from, to],
          },
        ]) => [
          name,
          {
            shape,
            data: new Float32Array(new Uint8Array(bytes.subarray(start + from, start + to)).buffer),
          },
        ],
      ),
  );
}

function writeTensors(file: string, tensors: ReadonlyMap<string, Tensor>): void {
  let offset = 0;
  const header = Object.fromEntries(
    [...tensors].map(([name, { shape, data }]) => {
      const entry = { dtype: 'F32', shape, data_offsets: [offset, offset + data.byteLength] };
      offset += data.byteLength;
      return [name, entry];
    }),
  );
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const data = [...tensors.values()].map((tensor) =>
    Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength),
  );
  writeFileSync(file, Buffer.concat([length, text, ...data]));
}

/** A CLIPModel's tensors under open_clip's names. */
function asOpenClip(tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  const out = new Map<string, Tensor>();
  const fused = new Map<string, Tensor[]>();
  for (const [name, tensor] of tensors) {
    let key = name
      .replace('text_model.embeddings.token_embedding.', 'token_embedding.')
      .replace('text_model.embeddings.position_embedding.weight', 'positional_embedding')
      .replace('vision_model.embeddings.position_embedding.weight', 'visual.positional_embedding')
      .replace('vision_model.embeddings.class_embedding', 'visual.class_embedding')
      .replace('vision_model.embeddings.patch_embedding', 'visual.conv1')
      .replace('vision_model.pre_layrnorm', 'visual.ln_pre')
      .replace('vision_model.post_layernorm', 'visual.ln_post')
      .replace('text_model.final_layer_norm', 'ln_final')
      .replace('text_model.encoder.layers.', 'transformer.resblocks.')
      .replace('vision_model.encoder.layers.', 'visual.transformer.resblocks.')
      .replace('layer_norm1', 'ln_1')
      .replace('layer_norm2', 'ln_2')
      .replace('mlp.fc1', 'mlp.c_fc')
      .replace('mlp.fc2', 'mlp.c_proj')
      .replace('self_attn.out_proj', 'attn.out_proj');
    if (key.endsWith('position_ids')) continue;
    const part = /^(.*)self_attn\.([qkv])_proj\.(weight|bias)$/.exec(key);
    if (part) {
      const target = `${part[1]}attn.in_proj_${part[3]}`;
      const parts = fused.get(target) ?? [];
      parts['qkv'.indexOf(part[2] ?? '')] = tensor;
      fused.set(target, parts);
      continue;
    }
    if (key === 'text_projection.weight' || key === 'visual_projection.weight') {
      const [rows = 0, columns = 0] = tensor.shape;
      const data = new Float32Array(tensor.data.length);
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < columns; j++) data[j * rows + i] = tensor.data[i * columns + j] ?? 0;
      key = key === 'text_projection.weight' ? 'text_projection' : 'visual.proj';
      out.set(key, { shape: [columns, rows], data });
    } else out.set(key, tensor);
  }
  for (const [key, parts] of fused) {
    const [rows = 0, ...rest] = parts[0]?.shape ?? [];
    out.set(key, {
      shape: [3 * rows, ...rest],
      data: Float32Array.from(parts.flatMap((part) => [...part.data])),
    });
  }
  return out;
}

beforeAll(async () => {
  engine = Engine.open({ threads: 2 });
  folder = mkdtempSync(join(tmpdir(), 'judges-'));
  images = await Promise.all(
    ['0.png', '1.png'].map((name) => decodeImageFile(join(fixture('image-preprocess'), name))),
  );

  const hps = join(folder, 'hps');
  mkdirSync(hps);
  writeTensors(
    join(hps, 'HPS_v2.1_compressed.safetensors'),
    asOpenClip(readTensors(join(pick, 'model.safetensors'))),
  );
  copyFileSync(join(pick, 'preprocessor_config.json'), join(hps, 'preprocessor_config.json'));
  const config = JSON.parse(readFileSync(join(pick, 'config.json'), 'utf8')) as {
    text_config: { num_attention_heads: number };
    vision_config: { num_attention_heads: number; hidden_size: number; hidden_act?: string };
  };
  const { vision_config: vision, text_config: text } = config;
  writeFileSync(
    join(hps, 'open_clip_config.json'),
    JSON.stringify({
      model_cfg: {
        quick_gelu: (vision.hidden_act ?? 'quick_gelu') === 'quick_gelu',
        vision_cfg: { head_width: vision.hidden_size / vision.num_attention_heads },
        text_cfg: { heads: text.num_attention_heads },
      },
    }),
  );

  const reward = join(folder, 'reward');
  mkdirSync(reward);
  copyFileSync(
    join(fixture('image-reward'), 'weights.safetensors'),
    join(reward, 'ImageReward.safetensors'),
  );
  const settings = JSON.parse(
    readFileSync(join(fixture('image-reward'), 'fixture.json'), 'utf8'),
  ) as Record<string, unknown>;
  const { vision: v, text: t, mlp, mean, std } = settings;
  writeFileSync(
    join(reward, 'config.json'),
    JSON.stringify({ vision: v, text: t, mlp, mean, std }),
  );
  writeFileSync(
    join(reward, 'vocab.txt'),
    '[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nred\nblue\ncircle\nsquare\nabove\ngreen\ntriangle\n',
  );
});
afterAll(() => {
  engine.close();
  rmSync(folder, { recursive: true });
});

async function scores(spec: JudgeSpec): Promise<number[]> {
  const judge = await loadJudge(engine, spec, 'float32');
  try {
    return await judge.score(images, texts);
  } finally {
    judge.release();
  }
}

async function info(spec: JudgeSpec) {
  const judge = await loadJudge(engine, spec, 'float32');
  judge.release();
  return judge.info;
}

const digestOf = (file: string): string =>
  `sha256:${createHash('sha256').update(readFileSync(file)).digest('hex')}`;

describe('judges of the CLIP family', () => {
  it('differ by their scale alone where they share model and preprocessing', async () => {
    const clip = await loadJudge(engine, { kind: 'clip', model: pick }, 'float32');
    const own = await clip.score(images, texts);
    const scale = Number(/exp\(logit_scale\) = ([\d.]+) · cosine/.exec(clip.info.scale)?.[1]);
    clip.release();
    const picked = await scores({ kind: 'pickscore', model: pick });
    picked.forEach((value, i) => expect(value / 100).toBeCloseTo((own[i] ?? 0) / scale, 5));
    expect(await scores({ kind: 'clip_score', model: pick, scale: 2.5 })).toEqual(
      picked.map((value) => expect.closeTo(value / 40, 6) as number),
    );
  });

  it('give the same scores from open_clip’s layout, with HPSv2’s preprocessing unless told', async () => {
    const file = join(folder, 'hps/HPS_v2.1_compressed.safetensors');
    const spec: JudgeSpec = { kind: 'hpsv2', model: file, fallback: join(pick, 'tokenizer') };
    const same = await scores({ ...spec, preprocess: 'transformers' });
    const picked = await scores({ kind: 'pickscore', model: pick });
    same.forEach((value, i) => expect(value).toBeCloseTo(picked[i] ?? 0, 4));
    const [plain, tensor, antialiased] = [
      await scores(spec),
      await scores({ ...spec, preprocess: 'tensor' }),
      await scores({ ...spec, preprocess: 'tensor_antialias' }),
    ];
    expect(plain).toEqual(tensor);
    expect(plain).not.toEqual(antialiased);
    expect(await info(spec)).toEqual({
      kind: 'hpsv2',
      files: [{ name: 'HPS_v2.1_compressed.safetensors', digest: digestOf(file) }],
      variant: expect.stringMatching(/^v2\.1, CLIP ViT \d+x\d+, patch \d+, \d+ px$/) as string,
      scale: '100 · cosine',
      preprocess: 'tensor',
    });
  });

  it('say what is missing', async () => {
    const bare = join(folder, 'bare');
    mkdirSync(bare);
    copyFileSync(join(folder, 'hps/HPS_v2.1_compressed.safetensors'), join(bare, 'x.safetensors'));
    const load = (spec: JudgeSpec) => loadJudge(engine, spec, 'float32');
    await expect(load({ kind: 'hpsv2', model: bare })).rejects.toThrow(
      /bare\/x\.safetensors: expected open_clip_config\.json beside it/,
    );
    await expect(load({ kind: 'hpsv2', model: join(folder, 'hps') })).rejects.toThrow(
      /hps: expected tokenizer\.json, or vocab\.json and merges\.txt/,
    );
    await expect(
      load({ kind: 'hpsv2', model: join(folder, 'reward/ImageReward.safetensors') }),
    ).rejects.toThrow(/expected open_clip's tensors \(visual\.conv1\.weight\), got none/);
    writeFileSync(join(bare, 'y.pt'), 'x');
    await expect(load({ kind: 'hpsv2', model: join(bare, 'y.pt') })).rejects.toThrow(
      /y\.pt: .*\.safetensors/,
    );
    await expect(load({ kind: 'aesthetic', model: pick })).rejects.toThrow(
      "head: expected the head's folder or file for kind aesthetic",
    );
    await expect(load({ kind: 'clip', model: pick, head: bare })).rejects.toThrow(
      'head: expected nothing for kind clip',
    );
  });
});

describe('ImageReward', () => {
  const spec = (): JudgeSpec => ({ kind: 'image_reward', model: join(folder, 'reward') });

  it('scores images by its own preprocessing and WordPiece, each the same whatever else is scored', async () => {
    const both = await scores(spec());
    const judge = await loadJudge(engine, spec(), 'float32');
    const swapped = await judge.score([...images].reverse(), [...texts].reverse());
    judge.release();
    expect(swapped).toEqual([...both].reverse());
    expect(new Set(both).size).toBe(2);
    expect(await info(spec())).toMatchObject({
      variant: 'v1.0',
      scale: '(x − 0.16717) / 1.03334',
      preprocess: 'torchvision',
    });
  });

  it('refuses a vocabulary that is larger than the model’s, and weights of something else', async () => {
    const large = join(folder, 'large');
    cpSync(join(folder, 'reward'), large, { recursive: true });
    const words = Array.from({ length: 200 }, (_, i) => `w${i}`);
    writeFileSync(
      join(large, 'vocab.txt'),
      ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', ...words].join('\n'),
    );
    await expect(loadJudge(engine, { ...spec(), model: large }, 'float32')).rejects.toThrow(
      /vocab\.txt: expected at most 100 tokens .* got 205/,
    );
    await expect(loadJudge(engine, { ...spec(), model: pick }, 'float32')).rejects.toThrow(
      /expected ImageReward's tensors/,
    );
  });
});

/**
 * A file of these tensors that holds nothing but its header: as large as the real one, without
 * taking room.
 */
function writeShapes(file: string, shapes: ReadonlyMap<string, number[]>): void {
  let offset = 0;
  const header = Object.fromEntries(
    [...shapes].map(([name, shape]) => {
      const begin = offset;
      offset += 4 * shape.reduce((product, n) => product * n, 1);
      return [name, { dtype: 'F32', shape, data_offsets: [begin, offset] }];
    }),
  );
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([length, text]));
  truncateSync(file, 8 + text.length + offset);
}

describe('the published sizes', () => {
  it('of ViT-H-14 in open_clip’s layout, as HPSv2 has it, are known without a config', () => {
    const shapes = new Map<string, number[]>([['logit_scale', []]]);
    const tower = (prefix: string, width: number, layers: number, mlp: number): void => {
      for (let i = 0; i < layers; i++) {
        const block = `${prefix}transformer.resblocks.${i}.`;
        const parts: [string, number[]][] = [
          ['ln_1.weight', [width]],
          ['ln_1.bias', [width]],
          ['attn.in_proj_weight', [3 * width, width]],
          ['attn.in_proj_bias', [3 * width]],
          ['attn.out_proj.weight', [width, width]],
          ['attn.out_proj.bias', [width]],
          ['ln_2.weight', [width]],
          ['ln_2.bias', [width]],
          ['mlp.c_fc.weight', [mlp, width]],
          ['mlp.c_fc.bias', [mlp]],
          ['mlp.c_proj.weight', [width, mlp]],
          ['mlp.c_proj.bias', [width]],
        ];
        for (const [name, shape] of parts) shapes.set(block + name, shape);
      }
    };
    tower('visual.', 1280, 32, 5120);
    tower('', 1024, 24, 4096);
    for (const [name, shape] of [
      ['visual.class_embedding', [1280]],
      ['visual.positional_embedding', [257, 1280]],
      ['visual.conv1.weight', [1280, 3, 14, 14]],
      ['visual.proj', [1280, 1024]],
      ['positional_embedding', [77, 1024]],
      ['token_embedding.weight', [49408, 1024]],
      ['text_projection', [1024, 1024]],
    ] as [string, number[]][])
      shapes.set(name, shape);
    for (const [name, width] of [
      ['visual.ln_pre', 1280],
      ['visual.ln_post', 1280],
      ['ln_final', 1024],
    ] as [string, number][])
      for (const kind of ['weight', 'bias']) shapes.set(`${name}.${kind}`, [width]);
    const file = join(folder, 'HPS_v2_compressed.safetensors');
    writeShapes(file, shapes);
    const judge = inspectJudge(engine, {
      kind: 'hpsv2',
      model: file,
      fallback: join(pick, 'tokenizer'),
    });
    // open_clip's own table of models: 986.11 million.
    expect(judge).toMatchObject({ kind: 'CLIPModel', embeddingWidth: 1024 });
    expect(Math.round(judge.parameters / 1e4)).toBe(98611);
    rmSync(file);
  });

  it('of ImageReward 1.0 are the defaults, and heads of BLIP’s own training may be there', () => {
    const shapes = new Map<string, number[]>();
    const linear = (name: string, out: number, inner: number): void => {
      shapes.set(`${name}.weight`, [out, inner]);
      shapes.set(`${name}.bias`, [out]);
    };
    const norm = (name: string, width: number): void => {
      for (const kind of ['weight', 'bias']) shapes.set(`${name}.${kind}`, [width]);
    };
    const vision = 'blip.visual_encoder';
    shapes.set(`${vision}.cls_token`, [1, 1, 1024]);
    shapes.set(`${vision}.pos_embed`, [1, 197, 1024]);
    shapes.set(`${vision}.patch_embed.proj.weight`, [1024, 3, 16, 16]);
    shapes.set(`${vision}.patch_embed.proj.bias`, [1024]);
    for (let i = 0; i < 24; i++) {
      const block = `${vision}.blocks.${i}`;
      norm(`${block}.norm1`, 1024);
      norm(`${block}.norm2`, 1024);
      linear(`${block}.attn.qkv`, 3072, 1024);
      linear(`${block}.attn.proj`, 1024, 1024);
      linear(`${block}.mlp.fc1`, 4096, 1024);
      linear(`${block}.mlp.fc2`, 1024, 4096);
    }
    norm(`${vision}.norm`, 1024);
    const text = 'blip.text_encoder';
    shapes.set(`${text}.embeddings.word_embeddings.weight`, [30524, 768]);
    shapes.set(`${text}.embeddings.position_embeddings.weight`, [512, 768]);
    shapes.set(`${text}.embeddings.position_ids`, [1, 512]);
    norm(`${text}.embeddings.LayerNorm`, 768);
    for (let i = 0; i < 12; i++) {
      const layer = `${text}.encoder.layer.${i}`;
      for (const [part, context] of [
        ['attention', 768],
        ['crossattention', 1024],
      ] as [string, number][]) {
        linear(`${layer}.${part}.self.query`, 768, 768);
        linear(`${layer}.${part}.self.key`, 768, context);
        linear(`${layer}.${part}.self.value`, 768, context);
        linear(`${layer}.${part}.output.dense`, 768, 768);
        norm(`${layer}.${part}.output.LayerNorm`, 768);
      }
      linear(`${layer}.intermediate.dense`, 3072, 768);
      linear(`${layer}.output.dense`, 768, 3072);
      norm(`${layer}.output.LayerNorm`, 768);
    }
    linear('blip.vision_proj', 256, 1024);
    linear('blip.text_proj', 256, 768);
    const widths = [768, 1024, 128, 64, 16, 1];
    [0, 2, 4, 6, 7].forEach((index, i) =>
      linear(`mlp.layers.${index}`, widths[i + 1] ?? 0, widths[i] ?? 0),
    );
    const directory = join(folder, 'released');
    mkdirSync(directory);
    writeShapes(join(directory, 'ImageReward.safetensors'), shapes);
    copyFileSync(join(folder, 'reward', 'vocab.txt'), join(directory, 'vocab.txt'));
    const judge = inspectJudge(engine, { kind: 'image_reward', model: directory });
    const count = [...shapes].filter(
      ([name]) =>
        !/_proj\.(weight|bias)$|position_ids/.test(name) || name.includes('encoder.layer'),
    );
    expect(judge.parameters).toBe(
      count.reduce((total, [, shape]) => total + shape.reduce((product, n) => product * n, 1), 0),
    );
    // The published file has 1.79 GB.
    expect(judge.parameters * 4).toBeGreaterThan(1.7e9);
    expect(judge.parameters * 4).toBeLessThan(1.8e9);
  });
});

it('a judge is told from its headers alone', () => {
  expect(
    inspectJudge(engine, { kind: 'image_reward', model: join(folder, 'reward') }),
  ).toMatchObject({
    kind: 'ImageReward',
    textTokens: 35,
  });
  expect(
    inspectJudge(engine, {
      kind: 'hpsv2',
      model: join(folder, 'hps'),
      fallback: join(pick, 'tokenizer'),
    }).kind,
  ).toBe('CLIPModel');
  expect(inspectFolder(engine, join(folder, 'hps/HPS_v2.1_compressed.safetensors')).kind).toBe(
    'CLIPModel',
  );
  const head = join(root, 'examples/scenes/tiny-aesthetic');
  expect(inspectFolder(engine, head).kind).toBe('AestheticHead');
  expect(inspectJudge(engine, { kind: 'aesthetic', model: pick, head }).kind).toBe('CLIPModel');
  writeTensors(
    join(folder, 'v1.safetensors'),
    new Map([
      ['weight', { shape: [1, 3], data: Float32Array.of(1, 2, 3) }],
      ['bias', { shape: [1], data: Float32Array.of(0) }],
    ]),
  );
  expect(inspectFolder(engine, join(folder, 'v1.safetensors'))).toMatchObject({
    kind: 'AestheticHead',
    embeddingWidth: 3,
  });
  expect(() =>
    inspectJudge(engine, { kind: 'aesthetic', model: pick, head: join(folder, 'v1.safetensors') }),
  ).toThrow(/expected a head on embeddings of width \d+ .* got one of width 3/);
});
