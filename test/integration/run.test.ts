import { asFloat32, readSafetensors, readSafetensorsHeader } from '@spindle/kit';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root } from '../harness/child.js';
import { scenes, weightsOf } from '../harness/files.js';
import { readJson } from '../harness/mesh.js';
import { UpMesh } from '../harness/up.js';

const config = join(root, 'examples/scenes/tiny-run.yaml');
const models = ['base', 'sft', 'spin1', 'spin2'];
const prompts = 4;

interface Statistics {
  mean: number;
  median: number;
  standard_error: number;
  win_rate: number;
  n: number;
}
interface ReportFile {
  run_id: string;
  status: string;
  best_model: string;
  models: { name: string; images: string; metrics: Record<string, Statistics> }[];
  curves: Record<string, { step: number; loss: number }[]>;
  judged_trainings: {
    model: string;
    metric: string;
    keep: string;
    kept_step: number;
    steps: { step: number; mean: number; standard_error: number; n: number }[];
  }[];
}

const tensorsOf = (file: string) => readSafetensors(readFileSync(file), file).tensors;

describe('a run from the command line', () => {
  let mesh: UpMesh;
  let directory: string;
  let output: string;

  beforeAll(async () => {
    mesh = await UpMesh.start();
    const dry = await mesh.spindle('run', config, '--dry-run');
    expect(dry.stderr).toBe('');
    expect(dry.code).toBe(0);
    expect(dry.stdout).toMatch(/memory: /);
    expect(dry.stdout).toMatch(/disk: /);
    expect(existsSync(join(mesh.artifacts, 'first'))).toBe(false);

    const first = await mesh.spindle('run', config, '--watch', '--run-id', 'first');
    expect(first.stderr).toBe('');
    expect(first.code).toBe(0);
    output = first.stdout;
    directory = join(mesh.artifacts, 'first');
  });
  afterAll(() => mesh.remove());

  it('prints a table with a row per model and where the results are', () => {
    for (const model of models)
      expect(output).toMatch(new RegExp(`^${model}( \\*)? .*\\d+\\.\\d+ ± \\d+\\.\\d+`, 'm'));
    expect(output).toContain(`results: ${directory}`);
  });

  it('leaves files that are for its user alone, and its token in two of them', async () => {
    const { token } = mesh.runtime;
    const entries = readdirSync(mesh.artifacts, { recursive: true, withFileTypes: true });
    const holding: string[] = [];
    for (const entry of entries) {
      const path = join(entry.parentPath, entry.name);
      // A link has no rights of its own; the server replaces files of its store all the time.
      if (entry.isSymbolicLink() || !existsSync(path)) continue;
      const { mode, size } = statSync(path);
      expect((mode & 0o077).toString(8), path).toBe('0');
      if (entry.isFile() && size < 1 << 20 && readFileSync(path).includes(token))
        holding.push(relative(mesh.artifacts, path));
    }
    expect(entries.length).toBeGreaterThan(100);
    expect(holding.sort()).toEqual(['nats/nats-server.conf', 'runtime.json']);
  });

  it('prints the link of the page, and again when asked, and no page opens without it', async () => {
    const link = /^status page: (\S+)$/m.exec(mesh.child.stdout)?.[1] ?? '';
    expect((await mesh.spindle('page')).stdout).toBe(`${link}\n`);
    const opened = await fetch(link, { redirect: 'manual' });
    expect([opened.status, opened.headers.get('location')]).toEqual([303, '/']);
    const cookie = opened.headers.get('set-cookie')?.split(';')[0] ?? '';
    const page = await fetch(mesh.runtime.http, { headers: { cookie } });
    expect([page.status, page.headers.get('content-type')]).toEqual([
      200,
      'text/html; charset=utf-8',
    ]);
    const closed = await fetch(mesh.runtime.http);
    expect([closed.status, await closed.text()]).toEqual([
      401,
      expect.stringContaining('"npx spindle page" prints the link'),
    ]);
  });

  it('leaves a report with statistics of every model', async () => {
    const report = (await readJson(join(directory, 'report.json'))) as ReportFile;
    expect(report).toMatchObject({ run_id: 'first', status: 'succeeded' });
    expect(report.models.map((model) => model.name)).toEqual(models);
    for (const { name, metrics } of report.models) {
      expect(Object.keys(metrics)).toEqual(['pickscore', 'aesthetic']);
      for (const statistics of Object.values(metrics)) {
        expect(statistics.n).toBe(prompts);
        for (const key of ['mean', 'median', 'standard_error'] as const)
          expect(statistics[key], `${name} ${key}`).toSatisfy(Number.isFinite);
        expect(statistics.win_rate).toBeGreaterThanOrEqual(0);
        expect(statistics.win_rate).toBeLessThanOrEqual(1);
      }
    }
    expect(report.models[0]?.metrics['pickscore']?.win_rate).toBe(0.5);
    expect(Object.keys(report.curves).sort()).toEqual(['sft', 'spin1', 'spin2']);
    expect(report.curves['spin2']?.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
    const [head = ''] = (await readFile(join(directory, 'report.md'), 'utf8')).split('\n');
    expect(head).toContain('first');
  });

  it('leaves the weights of the best judged step, and says which it is', async () => {
    const report = (await readJson(join(directory, 'report.json'))) as ReportFile;
    const judged = { sft: [2], spin1: [3, 4], spin2: [3, 4] };
    expect(
      Object.fromEntries(
        report.judged_trainings.map(({ model, steps }) => [model, steps.map(({ step }) => step)]),
      ),
    ).toEqual(judged);
    for (const { model, metric, keep, kept_step: kept, steps } of report.judged_trainings) {
      expect([metric, keep]).toEqual(['pickscore', 'best']);
      expect(steps.map(({ n }) => n)).toEqual(steps.map(() => 2));
      const best = Math.max(...steps.map(({ mean }) => mean));
      expect(steps.find(({ mean }) => mean === best)?.step).toBe(kept);
      for (const { step, mean } of steps)
        expect(output).toContain(`${model} step ${step}: pickscore ${mean.toFixed(3)} ± `);
      expect(output).toContain(`${model} is what step ${kept} left, with the best mean`);
    }
  });

  it('leaves every image’s scores by judges that are named, and training as a table and as events', async () => {
    const report = (await readJson(join(directory, 'report.json'))) as {
      judges: Record<string, object>;
      best_against: object[];
    };
    const digest = expect.stringMatching(/^sha256:[0-9a-f]{64}$/) as string;
    expect(report.judges['pickscore']).toMatchObject({
      kind: 'clip',
      files: [{ name: 'model.safetensors', digest }],
      preprocess: 'transformers',
    });
    expect(report.judges['aesthetic']).toMatchObject({
      kind: 'aesthetic',
      variant: expect.stringMatching(/^LAION v2, CLIP ViT/) as string,
    });
    expect(report.best_against).toHaveLength(models.length - 1);
    const scores = (await readFile(join(directory, 'scores.jsonl'), 'utf8')).trimEnd().split('\n');
    expect(scores).toHaveLength(models.length * prompts);
    const table = (await readFile(join(directory, 'metrics.csv'), 'utf8')).trimEnd().split('\n');
    expect(table.map((line) => line.split(',')[0])).toEqual([
      'model',
      ...Array<string>(2).fill('sft'),
      ...Array<string>(4).fill('spin1'),
      ...Array<string>(4).fill('spin2'),
    ]);
    for (const folder of ['sft', 'spin1', 'spin2', 'evaluation', 'evaluation-sft'])
      expect(readdirSync(join(directory, 'tensorboard', folder))).toEqual([
        expect.stringMatching(/^events\.out\.tfevents\.\d{10}\./),
      ]);
  });

  it('compares two of its models by the images that both drew', async () => {
    const { stdout, code } = await mesh.spindle(
      'compare',
      'first',
      'first',
      '--model-a',
      'base',
      '--model-b',
      'spin2',
      '--json',
    );
    expect(code).toBe(0);
    const comparison = JSON.parse(stdout) as {
      metrics: {
        metric: string;
        b_against_a: { winRate: number; difference: number; n: number };
      }[];
    };
    const report = (await readJson(join(directory, 'report.json'))) as ReportFile;
    const [pick] = comparison.metrics;
    expect(comparison).toMatchObject({ paired: prompts, only_a: 0, only_b: 0, settings: [] });
    expect(pick).toMatchObject({ metric: 'pickscore', b_against_a: { n: prompts } });
    expect(pick?.b_against_a.winRate).toBe(report.models[3]?.metrics['pickscore']?.win_rate);
  });

  it('leaves images with their prompts and seeds, the same for every model', async () => {
    const metadata = await Promise.all(
      models.map((model) => readFile(join(directory, 'images', model, 'metadata.jsonl'), 'utf8')),
    );
    expect(new Set(metadata).size).toBe(1);
    const rows = metadata[0]!
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { file_name: string; text: string; seed: number });
    const captions = (await readFile(join(scenes, 'prompts-eval.txt'), 'utf8'))
      .split('\n')
      .slice(0, prompts);
    expect(rows.map((row) => row.text)).toEqual(captions);
    for (const { file_name: name } of rows) {
      expect(await sharp(join(directory, 'images/spin2', name)).metadata()).toMatchObject({
        format: 'png',
        width: 64,
        height: 64,
        channels: 3,
      });
    }
  });

  it('leaves a self-contained report.html', async () => {
    const html = await readFile(join(directory, 'report.html'), 'utf8');
    expect(html).not.toMatch(/(src|href)="(?!data:|#)/);
    expect(html).not.toMatch(/<script[^>]+src|@import|url\((?!["']?data:)/);
    expect(html.match(/<img src="data:image\/png;base64,/g)).toHaveLength(models.length * prompts);
    expect(html).toContain('<svg');
  });

  it('leaves per iteration a U-Net that has the tensors of the base model, trained', () => {
    const base = tensorsOf(join(scenes, 'tiny-sd/unet/diffusion_pytorch_model.safetensors'));
    for (const iteration of ['1', '2']) {
      const folder = join(directory, 'iterations', iteration, 'unet');
      expect(readdirSync(folder).sort()).toEqual([
        'config.json',
        'diffusion_pytorch_model.safetensors',
      ]);
      expect(JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))).toMatchObject({
        _class_name: 'UNet2DConditionModel',
      });
      const trained = tensorsOf(join(folder, 'diffusion_pytorch_model.safetensors'));
      expect([...trained.keys()].sort()).toEqual([...base.keys()].sort());
      let moved = 0;
      for (const [name, tensor] of trained) {
        expect(tensor.dtype).toBe('F32');
        expect(tensor.shape).toEqual(base.get(name)?.shape);
        const before = asFloat32(base.get(name)!);
        const after = asFloat32(tensor);
        let largest = 0;
        for (let i = 0; i < after.length; i++)
          largest = Math.max(largest, Math.abs(after[i]! - before[i]!));
        expect(largest, name).toBeLessThan(1e-2);
        if (largest > 0) moved++;
      }
      expect(moved).toBe(trained.size);
    }
  });

  it('answers ls, status and export, for people and for machines', async () => {
    const ls = await mesh.spindle('ls', '--json');
    expect(
      (JSON.parse(ls.stdout) as { runs: { runId: string }[] }).runs.map((run) => run.runId),
    ).toEqual(['first']);
    const status = await mesh.spindle('status', 'first');
    expect(status.stdout).toMatch(/^first: succeeded/);
    expect(status.stdout).toMatch(/train-spin2\s+done\s+4\/4/);
    expect(await mesh.spindle('status', 'no-such-run')).toMatchObject({ code: 2, stdout: '' });

    const folder = await mkdtemp(join(tmpdir(), 'spindle-export-'));
    try {
      const to = join(folder, 'pipeline');
      expect((await mesh.spindle('export', 'first', '--iteration', '2', '--to', to)).code).toBe(0);
      expect(readdirSync(to).sort()).toEqual(
        [...readdirSync(join(scenes, 'tiny-sd')), 'README.md', 'spindle-config.json'].sort(),
      );
      expect(await readFile(join(to, 'README.md'), 'utf8')).toMatch(
        /\| \*\*spin2\*\* \| \S+ \(\S+ to \S+\) \|/,
      );
      const single = join(folder, 'single.safetensors');
      expect(
        await mesh.spindle(
          ...['export', 'first', '--iteration', '2', '--single-file', single],
          ...['--dtype', 'float16'],
        ),
      ).toMatchObject({ code: 0, stdout: `${single}\n` });
      expect(
        readSafetensorsHeader(single).tensors.get('model.diffusion_model.input_blocks.0.0.weight'),
      ).toMatchObject({ dtype: 'F16' });
      const png = join(folder, 'image.png');
      const { cli } = await import('../harness/cli.js');
      const sample = await cli([
        'sample',
        '--model',
        to,
        '--prompt',
        'a small red circle on a white background',
        '--seed',
        '1',
        '--steps',
        '4',
        '--cfg',
        '3',
        '--scheduler',
        'DDIMScheduler',
        '--out',
        png,
      ]);
      expect(sample.stderr).toBe('');
      expect(sample.code).toBe(0);
      expect(await sharp(png).metadata()).toMatchObject({ width: 64, height: 64 });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('run again, it leaves the same weights and images byte for byte', async () => {
    const again = await mesh.spindle('run', config, '--watch', '--run-id', 'second');
    expect(again.code).toBe(0);
    const second = join(mesh.artifacts, 'second');
    expect(weightsOf(second)).toEqual(weightsOf(directory));
    for (const model of models) {
      for (const name of readdirSync(join(directory, 'images', model))) {
        expect(
          readFileSync(join(second, 'images', model, name)).equals(
            readFileSync(join(directory, 'images', model, name)),
          ),
          `${model}/${name}`,
        ).toBe(true);
      }
    }
  });

  it('a run that is paused stays where it is until it is resumed, and one that is cancelled ends', async () => {
    await mesh.spindle('run', config, '--run-id', 'third');
    expect((await mesh.spindle('pause', 'third')).stdout).toMatch(/third: paused/);
    expect((await mesh.spindle('status', 'third')).stdout).toMatch(/^third: paused/);
    expect((await mesh.spindle('resume', 'third')).stdout).toMatch(/third: (running|queued)/);
    expect((await mesh.spindle('watch', 'third')).code).toBe(0);
    expect(weightsOf(join(mesh.artifacts, 'third'))).toEqual(weightsOf(directory));
    await mesh.spindle('run', config, '--run-id', 'fourth');
    expect((await mesh.spindle('cancel', 'fourth')).stdout).toMatch(/fourth: cancelled/);
    expect((await mesh.spindle('watch', 'fourth')).code).toBe(1);
  });

  it('Ctrl-C ends every process and leaves nothing behind', async () => {
    const { runtime } = mesh;
    expect(await mesh.stop()).toBe(0);
    for (const { name, pid } of runtime.services)
      expect(() => process.kill(pid, 0), name).toThrow(/ESRCH/);
    expect(existsSync(join(mesh.artifacts, 'runtime.json'))).toBe(false);
  });
});
