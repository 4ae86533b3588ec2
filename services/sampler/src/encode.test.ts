import { create } from '@bufbuild/protobuf';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ImageReader, openFiles } from '@spindle/data';
import { asFloat32, asNumbers, readSafetensors } from '@spindle/kit';
import { openLocalStore, type ArtifactStore } from '@spindle/mesh';
import {
  EncodeJobSchema,
  ImageTransformSchema,
  Precision,
  SampleJobSchema,
  type ArtifactRef,
} from '@spindle/proto';
import { viewOf } from './domain/transform.js';
import { encode, type EncodeDeps } from './encode.js';
import { EncodeCache } from './encode-cache.js';
import { Manifests } from './manifests.js';
import { Models } from './models.js';
import { RowCache } from './row-cache.js';
import { sample } from './sample.js';
import { fakeEngine, type FakeEngine } from './testing/fake-engine.js';

const { signal } = new AbortController();
const seed = 5n;
let root: string;
let store: ArtifactStore;
let engine: FakeEngine;
let deps: EncodeDeps;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'encode-'));
  store = await openLocalStore(root);
  await mkdir(join(root, 'p', 'vae'), { recursive: true });
  await writeFile(join(root, 'p', 'vae', 'weights'), 'one');
  fresh();
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** Another process on the same store. */
function fresh(): void {
  engine = fakeEngine();
  const images = new ImageReader(openFiles(), []);
  deps = {
    store,
    engine,
    models: new Models(engine, store),
    images,
    manifests: new Manifests(store),
    cache: new EncodeCache(store, images, engine.info),
    rows: new RowCache(store),
  };
}

interface Row {
  content: string;
  text?: string;
  rejected?: string;
}

async function run(
  rows: Row[],
  transform?: object,
  runId = 'r1',
  sizes: { height: number; width: number }[] = [],
) {
  const lines = await Promise.all(
    rows.map(async ({ content, text = 'x', rejected }, i) => {
      const file = join(root, `${i}.img`);
      await writeFile(file, content);
      if (rejected !== undefined) await writeFile(`${file}.other`, rejected);
      return JSON.stringify({
        file,
        text,
        ...(rejected !== undefined && { rejected: { kind: 'file', file: `${file}.other` } }),
      });
    }),
  );
  const manifest = await store.put(Buffer.from(lines.join('\n')), 'application/jsonl');
  const job = create(EncodeJobSchema, {
    manifest,
    start: 0,
    count: rows.length,
    pipelinePath: join(root, 'p'),
    resolution: 8,
    precision: Precision.FLOAT32,
    ...(transform && { transform: create(ImageTransformSchema, { seed, ...transform }) }),
    sizes,
  });
  return encode(job, runId, deps, signal);
}

async function tensorsOf(ref: ArtifactRef | undefined) {
  if (ref === undefined) throw new Error('expected a shard, got none');
  const { tensors } = readSafetensors(await store.get(ref), 'shard');
  return {
    numbers: (name: string) => asNumbers(tensors.get(name)!),
    /** The first number of every row. */
    firsts: (name: string) => {
      const { shape } = tensors.get(name)!;
      const size = shape.slice(1).reduce((product, n) => product * n, 1);
      return Array.from(
        { length: shape[0] ?? 0 },
        (_, n) => asFloat32(tensors.get(name)!)[n * size],
      );
    },
    names: [...tensors.keys()],
  };
}

const looks = (): number => engine.log.filter((line) => line.startsWith('read ')).length;

describe('views', () => {
  it('are encoded one after the other, both images of a pair mirrored alike', async () => {
    const rows: Row[] = ['A', 'B', 'C', 'D'].map((content) => ({
      content,
      rejected: content.toLowerCase(),
    }));
    const { shard, count } = await run(rows, { flip: true, views: 3 });
    const { numbers, firsts } = await tensorsOf(shard);
    expect(count).toBe(4);
    const index = numbers('index');
    expect(index).toEqual([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
    expect(numbers('rejected_index')).toEqual(index);
    // The fake's logvar is minus its image's value, one more where it is mirrored.
    const flips = index.map((row, i) =>
      Number(
        viewOf(
          { filter: 'bilinear', flip: true, randomCrop: false, views: 3, seed },
          row,
          Math.floor(i / 4),
        ).flip,
      ),
    );
    expect(new Set(flips).size).toBe(2);
    expect(firsts('logvar')).toEqual(index.map((row, i) => -(65 + row + (flips[i] ?? 0))));
    expect(firsts('rejected_logvar')).toEqual(index.map((row, i) => -(97 + row + (flips[i] ?? 0))));
  });

  it('record the place of every crop for models that are told of it', async () => {
    engine.pooledWidth = 1;
    const { shard } = await run([{ content: 'A' }], { randomCrop: true, views: 2 });
    const { numbers } = await tensorsOf(shard);
    const places = [0, 1].map(
      (view) =>
        viewOf({ filter: 'bilinear', flip: false, randomCrop: true, views: 2, seed }, 0, view).at,
    );
    expect(numbers('time_ids')).toEqual(
      places.flatMap((at) => [
        30,
        20,
        Math.floor((at?.y ?? 0) * 100),
        Math.floor((at?.x ?? 0) * 100),
        8,
        8,
      ]),
    );
  });

  it('refuse a filter that is none', async () => {
    await expect(run([{ content: 'A' }], { filter: 'nearest' })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: 'transform.filter: expected bilinear, bicubic, lanczos, got "nearest"',
    });
  });
});

describe('aspect-ratio buckets', () => {
  const sizes = [
    { height: 12, width: 4 },
    { height: 8, width: 8 },
    { height: 4, width: 12 },
  ];
  // Values are the first letters' codes, sizes the fake's.
  const rows: Row[] = [
    { content: 'A 30x10', rejected: 'a 10x10' },
    { content: 'B' },
    { content: 'broken' },
    { content: 'C 29x10', text: 'xyz' },
    { content: 'D 1x9' },
  ];

  it('bring every image to the nearest size, pairs alike, and say which', async () => {
    engine.pooledWidth = 1;
    const { shard, count, sizes: named } = await run(rows, { flip: true, views: 2 }, 'r1', sizes);
    expect(count).toBe(4);
    expect(named.map(({ index, height, width }) => [index, height, width])).toEqual([
      [0, 4, 12],
      [1, 8, 8],
      [3, 4, 12],
      [4, 12, 4],
    ]);
    const { numbers, names } = await tensorsOf(shard);
    expect(numbers('index')).toEqual([0, 1, 3, 4, 0, 1, 3, 4]);
    const shapes = [
      [1, 1, 3],
      [1, 2, 2],
      [1, 1, 3],
      [1, 3, 1],
    ].flat();
    expect(numbers('shape')).toEqual([...shapes, ...shapes]);
    expect([numbers('rejected_index'), numbers('rejected_shape')]).toEqual([
      [0, 0],
      [1, 1, 3, 1, 1, 3],
    ]);
    const flips = (view: number) =>
      [0, 1, 3, 4].map((row) =>
        Number(
          viewOf({ filter: 'bilinear', flip: true, randomCrop: false, views: 2, seed }, row, view)
            .flip,
        ),
      );
    const values = [0, 1].flatMap((view) =>
      [65, 66, 67, 68].flatMap((value, n) =>
        new Array<number>([3, 4, 3, 3][n] ?? 0).fill(-(value + (flips(view)[n] ?? 0))),
      ),
    );
    expect(numbers('logvar')).toEqual(values);
    expect(numbers('rejected_logvar')).toEqual(
      [0, 1].flatMap((view) => new Array<number>(3).fill(-(97 + (flips(view)[0] ?? 0)))),
    );
    expect(numbers('time_ids').slice(0, 12)).toEqual([30, 20, 1, 2, 4, 12, 30, 20, 1, 2, 8, 8]);
    expect(names).toContain('pooled');
  });

  it('are part of what a kept shard is named by', async () => {
    const whole = rows.filter(({ content }) => content !== 'broken');
    await run(whole);
    const before = looks();
    const first = await run(whole, undefined, 'r1', sizes);
    expect(looks()).toBe(before + 5);
    const again = await run(whole, undefined, 'r2', sizes);
    expect([looks(), again.shard, again.sizes]).toEqual([before + 5, first.shard, first.sizes]);
  });

  it('refuse a size that is none', async () => {
    await expect(run(rows, undefined, 'r1', [{ height: 0, width: 8 }])).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: 'encode.sizes: expected positive numbers of pixels, got 0',
    });
  });
});

describe('generated images of several sizes', () => {
  const items = [
    { index: 4, prompt: 'a', seed: 1n, height: 12, width: 4 },
    { index: 2, prompt: 'a', seed: 2n },
    { index: 7, prompt: 'ab', seed: 3n, height: 12, width: 4 },
  ];
  const job = (fields: object) =>
    create(SampleJobSchema, {
      pipelinePath: join(root, 'p'),
      unet: { name: 'base', path: '/u' },
      sampling: { steps: 2, guidanceScale: 3, height: 8, width: 8 },
      items,
      precision: Precision.FLOAT32,
      ...fields,
    });

  it('are drawn and kept at their own', async () => {
    const { latents, images, count } = await sample(
      job({ wantLatents: true, wantImages: true }),
      'r1',
      deps,
      signal,
    );
    expect(count).toBe(3);
    const { numbers } = await tensorsOf(latents);
    expect(numbers('index')).toEqual([4, 7, 2]);
    expect(numbers('shape')).toEqual(
      [
        [1, 3, 1],
        [1, 3, 1],
        [1, 2, 2],
      ].flat(),
    );
    const firsts = [6, 9, 7].map((first, n) =>
      Array.from({ length: [3, 3, 4][n] ?? 0 }, (_, i) => first + i),
    );
    expect(numbers('latents')).toEqual(firsts.flat());
    // In the items' order.
    const files = await Promise.all(images.map(async (ref) => (await store.get(ref)).toString()));
    expect(files).toEqual(
      [firsts[0], firsts[2], firsts[1]].map((values) => `png ${values?.join(' ')}`),
    );
  });

  it('are encoded again as pixels of their own size', async () => {
    const { latents } = await sample(
      job({ wantLatents: true, pixels: { seed, flip: true, views: 2 } }),
      'r1',
      deps,
      signal,
    );
    const { numbers, names } = await tensorsOf(latents);
    expect(names.sort()).toEqual(['index', 'logvar', 'mean', 'shape']);
    expect(numbers('index')).toEqual([4, 4, 7, 7, 2, 2]);
    expect(numbers('shape').filter((_, i) => i % 3 === 1)).toEqual([3, 3, 3, 3, 2, 2]);
  });
});

describe('encoded shards', () => {
  const rows: Row[] = [{ content: 'A' }, { content: 'B', rejected: 'C' }];

  it('serve other runs, and other processes, without decoding an image', async () => {
    const first = await run(rows);
    fresh();
    const again = await run(rows, undefined, 'r2');
    expect(again.shard).toEqual(first.shard);
    expect(again.count).toBe(2);
    expect(engine.log).toEqual([]);
  });

  // What is read and encoded again: images by name, captions.
  it.each<[string, () => Promise<unknown>, string[], string[]]>([
    ['an image', () => run([{ content: 'Z' }, rows[1]!]), ['0.img'], []],
    [
      'a rejected image',
      () => run([rows[0]!, { content: 'B', rejected: 'Z' }]),
      ['1.img', '1.img.other'],
      [],
    ],
    ['a caption', () => run([{ content: 'A', text: 'y' }, rows[1]!]), [], ['y']],
    [
      'the transform',
      () => run(rows, { filter: 'lanczos' }),
      ['0.img', '1.img', '1.img.other'],
      [],
    ],
    [
      'the VAE',
      async () => {
        await writeFile(join(root, 'p', 'vae', 'weights'), 'two');
        return run(rows);
      },
      ['0.img', '1.img', '1.img.other'],
      [],
    ],
    [
      'the text encoder',
      async () => {
        await mkdir(join(root, 'p', 'text_encoder'));
        await writeFile(join(root, 'p', 'text_encoder', 'weights'), 'two');
        return run(rows);
      },
      [],
      ['x x'],
    ],
  ])(
    'are made again when %s has changed, of what it touches',
    async (_what, change, images, texts) => {
      await run(rows);
      fresh();
      await change();
      expect(engine.log.filter((line) => line.startsWith('read ')).sort()).toEqual(
        images.map((name) => `read ${name}`),
      );
      expect(engine.log.filter((line) => line.startsWith('texts '))).toEqual(
        texts.map((text) => `texts ${text}`),
      );
    },
  );

  it('are made again when they are damaged or gone', async () => {
    const { shard } = await run(rows);
    const file = await store.localPath(shard!);
    await writeFile(file, 'damaged');
    fresh();
    expect((await run(rows)).shard).toEqual(shard);
    expect(looks()).toBe(3);
    expect((await tensorsOf(shard)).numbers('index')).toEqual([0, 1]);
    await rm(file);
    fresh();
    await run(rows);
    expect(looks()).toBe(3);
  });

  it('with rejected rows are not kept: a file may be mended', async () => {
    const broken = await run([{ content: 'broken' }, rows[1]!]);
    expect(broken.rejected).toHaveLength(1);
    expect(await store.listResults('cache/encode')).toEqual([]);
    await rm(join(root, '0.img'));
    const gone = [
      {
        index: 0,
        text: '',
        image: { kind: 'file' as const, file: join(root, '0.img') },
        position: '',
      },
    ];
    expect(await deps.cache.facts(gone, signal)).toEqual([null]);
  });
});

describe('rows of encoded shards', () => {
  const sizes = [
    { height: 12, width: 4 },
    { height: 8, width: 8 },
    { height: 4, width: 12 },
  ];
  const rows: Row[] = [
    { content: 'A 3x1', text: 'one' },
    { content: 'B', text: 'a caption that is longer than twenty letters', rejected: 'b' },
    { content: 'C 1x3', text: 'three', rejected: 'c 1x3' },
    { content: 'D', text: 'one' },
  ];

  /** What a store that knows nothing gives. */
  async function anew(...args: Parameters<typeof run>) {
    const known = { store, root };
    root = await mkdtemp(join(tmpdir(), 'encode-'));
    try {
      store = await openLocalStore(root);
      await mkdir(join(root, 'p', 'vae'), { recursive: true });
      await writeFile(join(root, 'p', 'vae', 'weights'), 'one');
      fresh();
      engine.pooledWidth = 2;
      return await run(...args);
    } finally {
      await rm(root, { recursive: true, force: true });
      ({ store, root } = known);
      fresh();
      engine.pooledWidth = 2;
    }
  }

  it.each([
    ['squares', []],
    ['several sizes', sizes],
  ])(
    'that have moved are not encoded again, and the bytes are as if they had been: %s',
    async (_what, own) => {
      const moved = [
        { content: 'N', text: 'new' },
        ...rows.slice(1),
        { content: 'broken' },
        rows[0]!,
      ];
      const expected = await anew(moved, undefined, 'r1', own);
      await run(rows, undefined, 'r1', own);
      fresh();
      engine.pooledWidth = 2;
      const result = await run(moved, undefined, 'r2', own);
      expect(engine.log.filter((line) => /^(read|texts) /.test(line))).toEqual([
        'read 0.img',
        'texts new',
      ]);
      expect([result.shard, result.sizes, result.truncatedCaptions]).toEqual([
        expected.shard,
        expected.sizes,
        1,
      ]);
      expect([result.count, result.rejected.map(({ index }) => index)]).toEqual([5, [4]]);
    },
  );

  it('come from another shard of another process in the same run, view by view', async () => {
    const settings = { flip: true, views: 2 };
    const expected = await anew([...rows, { content: 'E' }], settings);
    await run(rows, settings);
    fresh();
    engine.pooledWidth = 2;
    // Flips are drawn by the row's number, which these keep.
    expect((await run([...rows, { content: 'E' }], settings)).shard).toEqual(expected.shard);
    expect(engine.log.filter((line) => line.startsWith('read '))).toEqual(['read 4.img']);
    // Of another number only those whose draws happen to be the same.
    fresh();
    engine.pooledWidth = 2;
    await run([{ content: 'F' }, ...rows], settings);
    const flips = (row: number) =>
      [0, 1].map(
        (view) =>
          viewOf({ filter: 'bilinear', randomCrop: false, ...settings, seed }, row, view).flip,
      );
    const redrawn = rows.flatMap((row, n) =>
      flips(n).join() === flips(n + 1).join()
        ? []
        : [`read ${n + 1}.img`, ...(row.rejected === undefined ? [] : [`read ${n + 1}.img.other`])],
    );
    expect(engine.log.filter((line) => line.startsWith('read ')).sort()).toEqual(
      ['read 0.img', ...redrawn].sort(),
    );
  });

  it('are computed again where their shard is damaged, gone or no longer what its index says', async () => {
    engine.pooledWidth = 2;
    const { shard } = await run(rows);
    const changed = [...rows.slice(0, 3), { content: 'Z' }];
    const expected = await anew(changed);
    const [name] = await store.listResults('cache/rows');
    const index = (await store.getResult(name!))!;
    const replace = async (json: string) => {
      await store.deleteResults(name!);
      await store.commitResult(name!, json);
    };
    const spoil: (() => Promise<unknown>)[] = [
      async () => writeFile(await store.localPath(shard!), 'damaged'),
      async () => rm(await store.localPath(shard!)),
      () => replace('{}'),
      () => replace('no JSON'),
      () => replace(index.replaceAll('"views":[', '"views":[99,')),
    ];
    for (const how of spoil) {
      await store.deleteResults('cache');
      fresh();
      engine.pooledWidth = 2;
      await run(rows);
      await how();
      fresh();
      engine.pooledWidth = 2;
      expect((await run(changed, undefined, 'r2')).shard).toEqual(expected.shard);
      expect(looks()).toBe(6);
      // The bad index is gone.
      expect(await store.listResults('cache/rows')).not.toContain(name);
    }
  });
});

describe('generated images that are drawn from real ones', () => {
  const job = (fields: object) =>
    create(SampleJobSchema, {
      pipelinePath: join(root, 'p'),
      unet: { name: 'base', path: '/u' },
      sampling: { steps: 2, guidanceScale: 3, height: 8, width: 8, strength: 0.5 },
      wantLatents: true,
      precision: Precision.FLOAT32,
      ...fields,
    });
  const drawn = () => engine.log.filter((line) => line.startsWith('draw'));

  it('start from the latents of their own rows, from whichever shards they lie in', async () => {
    const shards = [
      (await run([{ content: 'A' }, { content: 'broken' }, { content: 'C' }], { views: 1 })).shard!,
      (await run([{ content: 'D' }], { views: 1 })).shard!,
    ];
    const items = [
      { index: 2, prompt: 'a', seed: 1n },
      { index: 0, prompt: 'b', seed: 2n },
      { index: 2, prompt: 'a', seed: 3n },
    ];
    await sample(job({ items, encodedShards: shards.slice(0, 1) }), 'r1', deps, signal);
    const four = (value: number) => new Array<number>(4).fill(Math.fround(value / 100));
    expect(drawn()).toEqual([`draw 3 from [3, 1, 2, 2] ${[67, 65, 67].flatMap(four).join(' ')}`]);
    await expect(
      sample(
        job({ items: [{ index: 1, prompt: 'a', seed: 1n }], encodedShards: shards }),
        'r1',
        deps,
        signal,
      ),
    ).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: 'encoded_shards: row 1: expected latents [1, 2, 2], got nothing',
    });
  });

  it('have the size of theirs', async () => {
    const sizes = [
      { height: 12, width: 4 },
      { height: 8, width: 8 },
    ];
    const { shard } = await run([{ content: 'A' }, { content: 'B 1x9' }], {}, 'r1', sizes);
    const items = [
      { index: 0, prompt: 'a', seed: 1n },
      { index: 1, prompt: 'a', seed: 1n, height: 12, width: 4 },
    ];
    await sample(job({ items, encodedShards: [shard] }), 'r1', deps, signal);
    expect(drawn().map((line) => line.split('] ')[0])).toEqual([
      'draw 1 from [1, 1, 2, 2',
      'draw 1 from [1, 1, 3, 1',
    ]);
    await expect(
      sample(
        job({ items: [{ ...items[1], height: 8 }], encodedShards: [shard] }),
        'r1',
        deps,
        signal,
      ),
    ).rejects.toThrow('row 1: expected latents [1, 2, 1], got [1, 3, 1]');
  });

  it('need both a strength and the real images', async () => {
    const items = [{ index: 0, prompt: 'a', seed: 1n }];
    const { shard } = await run([{ content: 'A' }]);
    const rejected = async (fields: object, message: string) =>
      expect(sample(job({ items, ...fields }), 'r1', deps, signal)).rejects.toThrow(message);
    await rejected({}, 'sampling.strength: expected none without encoded shards');
    await rejected(
      { sampling: { steps: 2 }, encodedShards: [shard] },
      'sampling.strength: expected one with encoded shards of real images, got nothing',
    );
    await rejected(
      { sampling: { steps: 2, strength: 0.4 }, encodedShards: [shard] },
      'sampling.strength: expected a number from 1 / 2 (steps) to 1, got 0.4',
    );
  });
});

describe('generated images as pixels', () => {
  it('are encoded again, every view mirrored like its real image', async () => {
    const transform = { seed, flip: true, views: 4 };
    const items = [
      { index: 0, prompt: 'a', seed: 1n },
      { index: 0, prompt: 'a', seed: 2n },
      { index: 3, prompt: 'ab', seed: 3n },
    ];
    const job = create(SampleJobSchema, {
      pipelinePath: join(root, 'p'),
      unet: { name: 'base', path: '/u' },
      sampling: { steps: 2, guidanceScale: 3, height: 8, width: 8 },
      items,
      wantLatents: true,
      precision: Precision.FLOAT32,
      pixels: transform,
    });
    const { latents, count } = await sample(job, 'r1', deps, signal);
    const { numbers, firsts, names } = await tensorsOf(latents);
    expect(count).toBe(3);
    expect(names.sort()).toEqual(['index', 'logvar', 'mean']);
    expect(numbers('index')).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 3]);
    // The fake draws 2 (U-Net's weight) + prompt's length + seed + steps into the first pixel,
    // which mirroring moves away from the corner.
    const drawn = items.flatMap((item) =>
      [0, 1, 2, 3].map((view) =>
        viewOf({ filter: 'bilinear', randomCrop: false, ...transform }, item.index, view).flip
          ? -7
          : -(2 + item.prompt.length + Number(item.seed) + 2),
      ),
    );
    expect(drawn).toContain(-7);
    expect(firsts('logvar')).toEqual(drawn);
  });
});

it('leaves nothing behind in the temporary folder', async () => {
  await run([{ content: 'A' }]);
  expect(await readdir(join(root, 'store', 'tmp'))).toEqual([]);
});
