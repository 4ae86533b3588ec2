import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { createClient, printable, readSafetensorsHeader, writeSafetensorsFile } from '@spindle/kit';
import { RunService } from '@spindle/proto';
import { loadRunConfig } from '../config/load.js';
import { parseRecord, serializeRecord } from '../orchestrator/record.js';
import { startHarness, type Harness } from '../testing/harness.js';
import { duration, table } from './format.js';
import { logLine } from './log-line.js';
import { runCommandLine } from './program.js';
import { writeRuntime } from './runtime.js';
import { findUnfinished } from './unfinished.js';

const fixture = fileURLToPath(
  new URL('../../../test/fixtures/rng/expected.safetensors', import.meta.url),
);

let harness: Harness;
let config: string;
beforeAll(async () => {
  harness = await startHarness({ score: (model) => (model === 'spin1' ? 2 : 1) });
  config = join(harness.folder, 'run.json');
  await writeFile(config, JSON.stringify(harness.config));
});
afterAll(() => harness.stop());
beforeEach(() => {
  process.exitCode = undefined;
});

async function spindle(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = '';
  let err = '';
  const stdout = vi
    .spyOn(process.stdout, 'write')
    .mockImplementation((text) => ((out += String(text)), true));
  const stderr = vi
    .spyOn(process.stderr, 'write')
    .mockImplementation((text) => ((err += String(text)), true));
  try {
    const gateway = `127.0.0.1:${harness.gateway.grpcPort}`;
    const code = await runCommandLine(args, {
      gateway,
      artifacts: harness.root,
      token: undefined,
      tokenFile: undefined,
      otlpEndpoint: undefined,
      ci: true,
      all: {},
    });
    return { code, out, err };
  } finally {
    stdout.mockRestore();
    stderr.mockRestore();
    process.exitCode = undefined;
  }
}

describe('spindle', () => {
  it('says what a run would do, without doing it', async () => {
    const { code, out } = await spindle('run', config, '--dry-run');
    expect(code).toBe(0);
    expect(out).toContain('iteration 2: against spin1, draw 6 images in 3 jobs');
    expect(out).toMatch(/memory: .*\n.*disk: /);
    expect((await spindle('ls')).out).toContain('no runs yet');
    expect(await spindle('run', config, '--probe')).toMatchObject({
      code: 2,
      err: 'spindle: --probe: expected --dry-run beside it, got none.\n',
    });
  });

  it('warns of held-out prompts that the text encoder will cut', async () => {
    const prompts = join(harness.folder, 'long.txt');
    await writeFile(prompts, `short\n${'word '.repeat(20)}\n`);
    const file = join(harness.folder, 'long.json');
    await writeFile(file, JSON.stringify({ ...harness.config, evaluation: { prompts } }));
    const { out } = await spindle('run', file, '--dry-run');
    expect(out).toContain(
      "warning: evaluation.prompts: at least 1 prompts are longer than the text encoder's 16 tokens",
    );
  });

  it('follows a run to its results in plain lines', async () => {
    const { code, out, err } = await spindle('run', config, '--watch', '--run-id', 'r1');
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(/^r1\n/);
    expect(out).toContain('train-spin2: done');
    expect(out).toMatch(/spin1 \*\s+2\.000 ± 0\.100/);
    expect(out).toMatch(/\nspin1 cannot be told from the base by pick: \+1\.00 \(95 % /);
  });

  it('takes the beginning of an id, and "latest", for a run', async () => {
    for (const name of ['r', 'latest'])
      expect((await spindle('status', name)).out).toMatch(/^r1: succeeded/);
    expect((await spindle('watch', 'latest', '--json')).code).toBe(0);
    expect(await spindle('status', 'x')).toMatchObject({
      code: 2,
      err: 'spindle: run_id: no run is named "x".\n',
    });
    const to = join(harness.folder, 'by-prefix');
    const exported = await spindle('export', 'latest', '--iteration', '1', '--to', to);
    expect(exported).toMatchObject({ code: 0, out: `${to}\n` });
    expect((await spindle('export', 'r', '--iteration', '9', '--to', to)).err).toContain(
      'run "r1": --iteration 9: expected a trained model, got none; the run has sft, 1, 2.',
    );
  });

  it('finds the unfinished run of a config, whatever has become of its other runs', async () => {
    const client = createClient(RunService, `127.0.0.1:${harness.gateway.grpcPort}`);
    try {
      const loaded = loadRunConfig(config);
      expect(await findUnfinished(client, loaded)).toBeUndefined();
      await harness.create({ train: { ...(harness.config.train as object), steps: 5 } }, 'other');
      await harness.client.pauseRun({ runId: 'other' });
      await harness.create({}, 'again');
      await harness.client.pauseRun({ runId: 'again' });
      const found = await findUnfinished(client, loaded);
      expect(found?.runId).toBe('again');
      expect(await spindle('watch', 'again')).toMatchObject({
        code: 3,
        out: expect.stringContaining('go on with: npx spindle resume again') as string,
      });
      await harness.client.resumeRun({ runId: 'other' });
      await harness.create({}, 'third');
      const waiting = await spindle('status', 'third');
      const ended = await Promise.all(['other', 'third'].map((id) => harness.finished(id)));
      expect(waiting.out).toMatch(/^third: queued\nwaits for other|^third: (running|succeeded)/);
      expect(ended.map(({ reason }) => reason)).toEqual(['', '']);
      for (const runId of ['other', 'third', 'again']) {
        if (runId === 'again') await harness.client.cancelRun({ runId });
        await harness.client.deleteRun({ runId });
      }
    } finally {
      client.close();
    }
  });

  it('says of a gateway that does not answer where it was looked for', async () => {
    expect(await spindle('ls', '--gateway', '127.0.0.1:1')).toMatchObject({
      code: 4,
      err:
        'spindle: no gateway answers at 127.0.0.1:1; start a mesh with "npx spindle up", or name ' +
        'another gateway with --gateway.\n',
    });
  });

  it('shows runs to people and to machines', async () => {
    expect((await spindle('ls')).out).toMatch(/r1\s+succeeded/);
    const { runs } = JSON.parse((await spindle('ls', '--json')).out) as {
      runs: { runId: string; config: { name: string } }[];
    };
    expect(runs[0]).toMatchObject({ runId: 'r1', config: { name: 'tiny' } });
    expect((await spindle('status', 'r1')).out).toContain('eval-score-spin2');
    expect(JSON.parse((await spindle('status', 'r1', '--json')).out)).toMatchObject({
      status: 'RUN_STATUS_SUCCEEDED',
      bestModel: 'spin1',
    });
    const lines = (await spindle('watch', 'r1', '--json')).out.trim().split('\n');
    expect(JSON.parse(lines.at(-1) ?? '')).toMatchObject({ status: 'RUN_STATUS_SUCCEEDED' });
  });

  it('exports a complete pipeline, or only the U-Net', async () => {
    await writeFile(join(harness.folder, 'model', 'model_index.json'), '{}');
    const to = join(harness.folder, 'exported');
    expect(await spindle('export', 'r1', '--iteration', '2', '--to', to)).toMatchObject({
      code: 0,
      out: `${to}\n`,
    });
    expect(await readFile(join(to, 'model_index.json'), 'utf8')).toBe('{}');
    expect(await readFile(join(to, 'unet', 'config.json'), 'utf8')).toContain(
      'UNet2DConditionModel',
    );
    // The report of this mesh's stand-in for an evaluator is none: the card says so, and the model
    // is exported all the same.
    const card = await readFile(join(to, 'README.md'), 'utf8');
    expect(card).toContain('Iteration 2 of 2 of self-play');
    expect(card).toMatch(/\| \*\*spin2\*\* \|.*Without the report's intervals: report\.json: /s);
    expect(JSON.parse(await readFile(join(to, 'spindle-config.json'), 'utf8'))).toMatchObject({
      iterations: 2,
    });
    expect((await spindle('export', 'r1', '--iteration', '2', '--to', to)).err).toContain(
      'expected an empty or absent folder',
    );
    const only = join(harness.folder, 'only');
    expect(
      JSON.parse(
        (
          await spindle(
            'export',
            'r1',
            '--iteration',
            'best',
            '--to',
            only,
            '--unet-only',
            '--json',
          )
        ).out,
      ),
    ).toMatchObject({
      model: 'spin1',
    });
    expect(
      (await readFile(join(only, 'diffusion_pytorch_model.safetensors'))).length,
    ).toBeGreaterThan(0);
  });

  it("exports a LoRA under diffusers' names, and on request under kohya's", async () => {
    const folder = join(harness.root, 'lora');
    await cp(join(harness.root, 'r1'), folder, { recursive: true, dereference: true });
    const file = join(folder, 'run.json');
    const record = parseRecord(await readFile(file, 'utf8'), file);
    const unet = record.state.training['spin2']?.unet;
    if (!unet) throw new Error('expected a trained U-Net, got none');
    unet.adapter = unet.weights;
    await writeFile(file, serializeRecord(record));
    const values = (count: number) => new Uint8Array(new Float32Array(count).fill(0.5).buffer);
    const layer = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q';
    writeSafetensorsFile(
      join(folder, 'iterations', '2', 'pytorch_lora_weights.safetensors'),
      [
        [`unet.${layer}.lora_A.weight`, [2, 8]] as const,
        [`unet.${layer}.lora_B.weight`, [8, 2]] as const,
      ].map(([name, shape]) => ({ name, dtype: 'F32', shape, chunks: () => [values(16)] })),
    );
    const [own, kohya] = [join(harness.folder, 'lora-own'), join(harness.folder, 'lora-kohya')];
    const exported = (to: string, ...more: string[]) =>
      spindle('export', 'lora', '--iteration', '2', '--unet-only', '--to', to, ...more);
    expect(await exported(own)).toMatchObject({ code: 0, err: '' });
    const name = 'lora-spin2.safetensors';
    expect(await exported(kohya, '--lora-format', 'kohya', '--dtype', 'float16')).toMatchObject({
      code: 0,
      err: '',
    });
    expect(await readdir(own)).toContain('pytorch_lora_weights.safetensors');
    expect(await readdir(own)).not.toContain(name);
    expect(await readdir(kohya)).not.toContain('pytorch_lora_weights.safetensors');
    const prefix = `lora_unet_${layer.replaceAll('.', '_')}`;
    const { tensors } = readSafetensorsHeader(join(kohya, name));
    expect([...tensors].map(([tensor, { dtype }]) => [tensor, dtype]).sort()).toEqual([
      [`${prefix}.alpha`, 'F16'],
      [`${prefix}.lora_down.weight`, 'F16'],
      [`${prefix}.lora_up.weight`, 'F16'],
    ]);
    await rm(folder, { recursive: true });
  });

  it('leaves nothing of an export that fails half-way', async () => {
    const dangling = join(harness.folder, 'model', 'scheduler');
    await symlink('/nowhere', dangling);
    const to = join(harness.folder, 'failed');
    expect((await spindle('export', 'r1', '--iteration', '2', '--to', to)).code).not.toBe(0);
    expect(existsSync(to)).toBe(false);
    await rm(dangling);
  });

  it.each([
    ['an unknown key', { trian: {} }, 'trian: unknown key; did you mean "train"?'],
    ['a broken model', { model: '/tmp' }, ''],
    [
      'a missing model',
      { model: '/nowhere' },
      'model: expected a folder, got "/nowhere", which does not exist.',
    ],
    [
      'an option that the scheduler does not have',
      { sampling: { overrides: { karras: true } } },
      'sampling: overrides: karras: expected a key that DDIMScheduler reads',
    ],
    [
      'an oblong model without a resolution',
      {},
      "data.resolution: expected a number of pixels, since the model's sample_size is two numbers",
    ],
    ['a head of another kind', { evaluation: { head: 'clip' } }, 'evaluation.metrics.0.head: '],
    [
      'a head of another width',
      { evaluation: { head: 'narrow-head' } },
      'expected a head on embeddings of width 8',
    ],
    [
      'more steps than can be counted',
      { train: { steps: 1e12 } },
      'train.steps: expected at most 10000000, got 1000000000000',
    ],
    ['missing data', { data: { path: '/nowhere' } }, 'data.path: expected a folder'],
  ])('refuses %s with one sentence and exit code 2', async (name, overrides, message) => {
    if (name === 'a broken model') {
      await mkdir(join(harness.folder, 'broken'), { recursive: true });
      overrides = { model: join(harness.folder, 'broken') };
      message = 'conv_in.weight: expected shape 64×4×3×3, got 64×3×3×3.';
    }
    if (name.startsWith('an oblong')) {
      await mkdir(join(harness.folder, 'oblong'), { recursive: true });
      overrides = { model: join(harness.folder, 'oblong') };
    }
    if (name.startsWith('a head')) {
      const { head } = (overrides as { evaluation: { head: string } }).evaluation;
      const folder = join(harness.folder, head);
      await mkdir(folder, { recursive: true });
      const metric = {
        name: 'taste',
        kind: 'aesthetic',
        model: join(harness.folder, 'clip'),
        head: folder,
      };
      Object.assign(overrides, {
        evaluation: { prompts: join(harness.folder, 'prompts.txt'), metrics: [metric] },
      });
    }
    const file = join(harness.folder, 'wrong.json');
    await writeFile(file, JSON.stringify({ ...harness.config, ...overrides }));
    const { code, err } = await spindle('run', file, '--dry-run');
    expect(code).toBe(2);
    expect(err).toContain(message);
    expect(err.trim().split('\n')).toHaveLength(1);
  });

  it('spells out what data would say to a terminal', async () => {
    const folder = join(harness.folder, 'evil');
    await mkdir(folder, { recursive: true });
    const row = { file_name: '\u001b]0;pwned\u0007\u009b2J\u202e.png', text: 'x' };
    await writeFile(join(folder, 'metadata.jsonl'), JSON.stringify(row));
    const file = join(harness.folder, 'evil.json');
    await writeFile(file, JSON.stringify({ ...harness.config, data: { path: folder } }));
    const { code, out, err } = await spindle('run', file, '--dry-run');
    expect(code).toBe(2);
    expect(err).toContain('\\x1b]0;pwned\\x07\\x9b2J\\u202e.png');
    expect(printable(out + err)).toBe(out + err);
  });

  it.each([
    [['status', 'none'], 'no run is named "none"'],
    [['pause', 'r1'], 'run "r1" is succeeded; it cannot be paused.'],
    [['run', '/nowhere.yaml'], '/nowhere.yaml'],
    [['export', 'none', '--iteration', '1', '--to', '/tmp/x'], 'no run is named "none"'],
    [['export', 'r1', '--iteration', '1'], '--to: expected a folder to write, or a file in'],
    [
      ['export', 'r1', '--iteration', '1', '--to', '/nowhere', '--lora-format', 'kohya'],
      '--lora-format: expected a run that trains LoRA (train.lora), got one that does not.',
    ],
    [
      ['export', 'r1', '--iteration', '1', '--single-file', 'x.ckpt'],
      '--single-file: expected a name that ends in .safetensors, got x.ckpt.',
    ],
    [
      ['export', 'r1', '--iteration', '1', '--single-file', fixture],
      `--single-file: expected a file that does not exist, got ${fixture}.`,
    ],
    [
      ['export', 'r1', '--iteration', '1', '--to', '/nowhere', '--dtype', 'float16'],
      '--dtype: expected --single-file or --lora-format kohya beside it, got float16 alone.',
    ],
  ])('refuses %j with exit code 2', async (args, message) => {
    const { code, err } = await spindle(...args);
    expect(code).toBe(2);
    expect(err).toContain(message);
  });

  it('says how to start a mesh when there is none, and to wait for one that is starting', async () => {
    const ls = async (folder: string) => {
      const stderr = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
      const environment = {
        gateway: undefined,
        artifacts: 'x',
        token: undefined,
        tokenFile: undefined,
        otlpEndpoint: undefined,
        ci: true,
        all: {},
      };
      const code = await runCommandLine(['ls', '--artifacts', folder], environment);
      const said = stderr.mock.calls.join();
      stderr.mockRestore();
      return { code, said };
    };
    const empty = await ls(join(harness.folder, 'empty'));
    expect(empty.code).toBe(4);
    expect(empty.said).toContain('start one with "npx spindle up"');
    const starting = join(harness.folder, 'starting');
    await mkdir(starting);
    await writeRuntime(starting, {
      pid: process.pid,
      natsUrl: '',
      place: '',
      natsStarted: '',
      token: 't',
      natsPid: 0,
      gateway: '',
      http: '',
      services: [],
    });
    const early = await ls(starting);
    expect(early.code).toBe(4);
    expect(early.said).toContain('is still starting');
  });

  it.each(['up', 'run', 'ls', 'status', 'watch', 'pause', 'resume', 'cancel', 'export'])(
    'explains %s',
    async (command) => {
      const { code, out } = await spindle(command, '--help');
      expect(code).toBe(0);
      expect(out).toContain(`Usage: spindle ${command}`);
      expect(out).toContain('--json');
    },
  );
});

describe('formatting', () => {
  it('writes durations the way people say them', () => {
    expect([4, 65, 3_725, -1].map(duration)).toEqual(['4 s', '1 min 05 s', '1 h 02 min', '?']);
  });

  it('aligns columns', () => {
    expect(
      table([
        ['a', 'b'],
        ['long', '10'],
      ]),
    ).toEqual(['a      b', 'long  10']);
  });

  it('turns log lines into words and lets last words through', () => {
    const line = JSON.stringify({
      level: 'warn',
      time: '2026-01-02T03:04:05.000Z',
      msg: 'it hangs',
      err: { message: 'timeout' },
    });
    expect(logLine('sampler', line, 'info')).toBe('03:04:05 sampler   warn  it hangs: timeout');
    expect(logLine('sampler', line, 'error')).toBeNull();
    expect(logLine('sampler', 'Segmentation fault', 'error')).toBe('sampler: Segmentation fault');
  });
});
