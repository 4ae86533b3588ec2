import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import {
  type BenchOptionsDto,
  type BenchResultDto,
  type ModelSourceDto,
  type NativeAddon,
  type NativePrecision,
  type ParityLineDto,
} from '@spindle/native';
import { compare } from './fixture.js';
import { runCli } from './program.js';

const fixtures = fileURLToPath(new URL('../../../../test/fixtures', import.meta.url));
const scenes = fileURLToPath(new URL('../../../../examples/scenes', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'cli-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function fixture(name: string, json: unknown): string {
  const folder = join(scratch, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, 'fixture.json'),
    typeof json === 'string' ? json : JSON.stringify(json),
  );
  return folder;
}

async function run(
  argv: string[],
  overrides: Partial<NativeAddon> = {},
): Promise<{ out: string[]; err: string[]; code: number }> {
  const result = { out: [] as string[], err: [] as string[], code: 0 };
  const addon: Partial<NativeAddon> = {
    createEngine: () => ({}) as never,
    engineInfo: () => ({
      version: '1',
      backend: 'cpu',
      isa: 'avx2',
      threads: 1,
      cpu: 'some cpu',
      backends: ['cpu'],
    }),
    gpus: () => ({
      problem: 'no NVIDIA driver',
      driver: null,
      cuda: null,
      devices: [],
      backend: { problem: 'none', path: '', libraries: [] },
    }),
    ...overrides,
  };
  await runCli(argv, {
    addon: addon as NativeAddon,
    write: (line) => result.out.push(line),
    warn: (line) => result.err.push(line),
    setExitCode: (code) => (result.code = code),
  });
  return result;
}

const lineOf = (directory: string, ok: boolean): ParityLineDto => ({
  fixture: directory,
  kind: 'rng',
  tensor: 'randn.0.5',
  relL2: ok ? 0 : 0.5,
  maxAbs: ok ? 0 : 1,
  ok,
});

describe('parity', () => {
  it('prints one JSON object per tensor and a last one with the counts', async () => {
    const { out, code } = await run(['parity', join(fixtures, 'tokenizer'), '--json']);
    const lines = out.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.at(-1)).toEqual({ passed: 16, failed: 0 });
    expect(Object.keys(lines[0]!)).toEqual(['fixture', 'kind', 'tensor', 'relL2', 'maxAbs', 'ok']);
    expect(lines[0]).toEqual({
      fixture: 'tokenizer',
      kind: 'tokenizer',
      tensor: '0.ids',
      relL2: 0,
      maxAbs: 0,
      ok: true,
    });
    expect(code).toBe(0);
  });

  it('exits with 1 when a tensor fails and with 2 when a fixture cannot be read, having replayed the others', async () => {
    const folder = fixture('rng', { kind: 'rng', tolerance: { float32: { max_abs: 1 } } });
    const parity = async (_engine: unknown, directory: string): Promise<ParityLineDto[]> => [
      lineOf(directory, true),
      lineOf(directory, false),
    ];
    expect((await run(['parity', folder], { parity })).code).toBe(1);
    const judge = fixture('judge', { kind: 'fid' });
    const { out, err, code } = await run(
      ['parity', judge, join(scratch, 'none'), folder, '--json'],
      { parity },
    );
    expect(code).toBe(2);
    expect(err.join('\n')).toMatch(/judge\/fixture\.json: kind: expected unet, .* got "fid"/);
    expect(err.join('\n')).toMatch(/none: expected a fixture's folder, got no such folder/);
    expect(JSON.parse(out.at(-1)!)).toEqual({ passed: 1, failed: 1 });
    // What a shell's * names beside the folders; a file alone is a mistake.
    const file = join(folder, 'fixture.json');
    const beside = await run(['parity', file, folder, '--json'], { parity });
    expect([beside.code, beside.err]).toEqual([1, [`note: ${file} is no folder and left out`]]);
    expect((await run(['parity', file], { parity })).code).toBe(2);
  });

  it('replays in float32 what states no tolerance for the precision asked for, and says so', async () => {
    const asked: NativePrecision[] = [];
    const parity = async (
      _engine: unknown,
      directory: string,
      precision: NativePrecision,
    ): Promise<ParityLineDto[]> => {
      asked.push(precision);
      return [lineOf(directory, true)];
    };
    const only = fixture('only', { kind: 'rng', tolerance: { float32: { max_abs: 1 } } });
    const both = fixture('both', {
      kind: 'vae',
      tolerance: { float32: { rel_l2: 1 }, bfloat16: { rel_l2: 1 } },
    });
    const { err } = await run(['parity', only, both, '--precision', 'bfloat16'], { parity });
    expect(asked).toEqual(['float32', 'bfloat16']);
    expect(err).toEqual([
      expect.stringMatching(/only states no bfloat16 tolerance; replayed in float32/),
    ]);
  });

  it('tells fixtures of one name apart by their paths', async () => {
    const parity = async (_engine: unknown, directory: string): Promise<ParityLineDto[]> => [
      lineOf(directory, true),
    ];
    const [a, b] = ['a/rng', 'b/rng'].map((name) => fixture(name, { kind: 'rng' }));
    const { out } = await run(['parity', a!, b!, '--json'], { parity });
    expect(out.slice(0, 2).map((line) => (JSON.parse(line) as ParityLineDto).fixture)).toEqual([
      a,
      b,
    ]);
  });

  it('refuses a fixture that is no JSON', async () => {
    const { err, code } = await run(['parity', fixture('broken', '{')]);
    expect(err[0]).toMatch(/broken\/fixture\.json: expected JSON/);
    expect(code).toBe(2);
  });
});

describe('compare', () => {
  const bound = { relL2: 0.01, maxAbs: null };
  it('bounds what was computed where zero is expected', () => {
    expect(compare([0.001], [0], bound)).toEqual({ relL2: 0.001, maxAbs: 0.001, ok: true });
    expect(compare([1], [0], bound).ok).toBe(false);
  });
  it('fails NaN and a wrong length', () => {
    expect(compare([Number.NaN, 1], [1, 1], { relL2: null, maxAbs: 10 }).ok).toBe(false);
    expect(compare([1], [1, 1], { relL2: 10, maxAbs: 10 }).ok).toBe(false);
  });
});

describe('bench', () => {
  const flags = ['bench', '--task', 'sample', '--model', 'small'];
  const values = { task: 'sample', seconds_median: 0.5 };

  it('hands the flags to the engine and prints its result as one JSON object', async () => {
    let got: BenchOptionsDto | undefined;
    const bench = async (_engine: unknown, options: BenchOptionsDto): Promise<BenchResultDto> => {
      got = options;
      return { values, tables: '' };
    };
    const { out } = await run([...flags, '--precision', 'bfloat16', '--batch', '4', '--json'], {
      bench,
    });
    expect(got).toEqual({
      task: 'sample',
      model: 'small',
      precision: 'bfloat16',
      batch: 4,
      steps: 20,
      repeat: 5,
      warmup: 2,
      checkpointing: false,
      profile: false,
    });
    expect(out).toEqual(['{"task":"sample","seconds_median":0.5}']);
  });

  it('prints the tables of a profile after the values, and its numbers in the JSON object', async () => {
    const profile = { runs: 5 };
    const bench = async (_engine: unknown, options: BenchOptionsDto): Promise<BenchResultDto> => {
      expect(options.profile).toBe(true);
      return { values: { ...values, profile }, tables: 'kernel calls\nadd 1\n' };
    };
    expect((await run([...flags, '--profile'], { bench })).out).toEqual([
      'task: sample',
      'seconds_median: 0.5',
      '\nkernel calls\nadd 1',
    ]);
    const { out } = await run([...flags, '--profile', '--json'], { bench });
    expect(out.map((line) => JSON.parse(line) as unknown)).toEqual([{ ...values, profile }]);
  });
});

describe('bad flags', () => {
  it.each([
    [['bench', '--task', 'x', '--model', 'small'], /Allowed choices are unet_forward/],
    [
      ['bench', '--task', 'sample', '--model', 'small', '--batch', '0'],
      /expected an integer of at least 1, got "0"/,
    ],
    [
      ['sample', '--model', 'm', '--prompt', 'p', '--out', 'o.png', '--seed', '-1'],
      /expected an integer from 0 to 2\^64 - 1/,
    ],
    [['parity'], /missing required argument 'fixture-dir'/],
    [['nothing'], /unknown command 'nothing'/],
  ])('exit with 2: %j', async (argv, message) => {
    const { err, code } = await run(argv);
    expect(err.join('\n')).toMatch(message);
    expect(code).toBe(2);
  });
});

it('explains its commands by the name that people call them by', async () => {
  const { out, code } = await run(['sample', '--help']);
  expect(out.join('\n')).toContain('Usage: spindle sample [options]');
  expect(code).toBe(0);
});

it('sample refuses a place that it could not write to, before it loads anything', async () => {
  const { err, code } = await run([
    'sample',
    '--model',
    scratch,
    '--prompt',
    'p',
    '--out',
    '/nowhere/o.png',
  ]);
  expect(err).toEqual([
    'error: /nowhere: expected a folder to write --out into, got no such folder',
  ]);
  expect(code).toBe(2);
});

describe('sample --lora', () => {
  const lora = join(scratch, 'lora.safetensors');
  const sampled = async (...flags: string[]): Promise<ModelSourceDto[]> => {
    const loaded: ModelSourceDto[] = [];
    const load = async (_engine: unknown, source: ModelSourceDto): Promise<never> => {
      loaded.push(source);
      return {} as never;
    };
    await run(
      [
        ...['sample', '--model', join(scenes, 'tiny-sd'), '--prompt', 'p'],
        ...['--out', join(scratch, 'o.png'), ...flags],
      ],
      { loadClipText: load, loadVae: load, loadUnet: load },
    );
    return loaded;
  };
  const target = (component: string): object => ({
    component,
    components: ['unet', 'text_encoder'],
  });

  it('goes to text encoder and U-Net, and to no VAE', async () => {
    const [text, vae, unet] = await sampled('--lora', lora, '--lora', `${lora}:0.5`);
    const files = [
      { path: lora, scale: 1 },
      { path: lora, scale: 0.5 },
    ];
    const adapters = (component: string): object[] =>
      files.map((file) => ({ ...file, target: target(component) }));
    expect(text?.adapters).toEqual(adapters('text_encoder'));
    expect(unet?.adapters).toEqual(adapters('unet'));
    expect(vae?.adapters).toBeUndefined();
  });

  it('leaves text encoders out where that is asked for, as a part of the file that is known', async () => {
    const [text, , unet] = await sampled('--lora', lora, '--lora-unet-only');
    expect(text?.adapters).toBeUndefined();
    expect(unet?.adapters).toEqual([{ path: lora, scale: 1, target: target('unet') }]);
  });

  it('is refused before anything is loaded where it is a pickle, or its flag has no file', async () => {
    expect(await sampled('--lora', '/x/lora.bin')).toEqual([]);
    expect(await sampled('--lora-unet-only')).toEqual([]);
  });
});

it('scores refuse metadata that leaves the folder', async () => {
  const folder = join(scratch, 'images');
  mkdirSync(folder);
  writeFileSync(join(folder, 'metadata.jsonl'), '{"file_name":"../a.png","text":"x"}\n');
  const { err, code } = await run(['score', '--model', scratch, '--images', folder]);
  expect(err[0]).toMatch(
    /metadata\.jsonl:1: file_name: expected a file within the folder, got "\.\.\/a\.png"/,
  );
  expect(code).toBe(2);
});

it('doctor says what the engine runs on', async () => {
  const { out } = await run(['doctor', '--json'], {
    measurePrecision: async () => ({ float32: 2, bfloat16: 1 }),
  });
  expect(JSON.parse(out[0]!)).toMatchObject({
    node: process.version,
    cpu: 'some cpu',
    precision: 'bfloat16',
    stepSeconds: { float32: 2, bfloat16: 1 },
    gpus: { problem: 'no NVIDIA driver', devices: [] },
  });
});

it('inspect reads the header of a component', async () => {
  const folder = join(scratch, 'unet');
  mkdirSync(folder);
  const config = readFileSync(
    fileURLToPath(new URL('../../../../examples/scenes/tiny-sd/unet/config.json', import.meta.url)),
    'utf8',
  );
  writeFileSync(join(folder, 'config.json'), config);
  writeFileSync(join(folder, 'diffusion_pytorch_model.safetensors'), '');
  const { out } = await run(['inspect', folder, '--json'], {
    inspectModel: () => ({ parameters: 42 }),
  });
  expect(JSON.parse(out[0]!)).toMatchObject({
    kind: 'UNet2DConditionModel',
    parameters: { unet: 42 },
    latentChannels: 4,
    sampleSize: 16,
    textWidth: 128,
  });
});

it('doctor speaks of GPUs before it opens an engine that may need one', async () => {
  const createEngine = () => {
    throw Object.assign(new Error('no device'), { code: 'INVALID_ARGUMENT' });
  };
  const { out, err, code } = await run(['doctor', '--backend', 'cuda'], { createEngine });
  expect(out).toEqual(['no GPU: no NVIDIA driver', 'no CUDA backend: none ()']);
  expect(err).toEqual(['error: no device']);
  expect(code).toBe(2);
});
