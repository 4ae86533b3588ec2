import { create, toJsonString } from '@bufbuild/protobuf';
import { createClient, createLogger, Lifecycle } from '@spindle/kit';
import { openLocalStore, type ArtifactStore } from '@spindle/mesh';
import {
  EvaluatorService,
  JobResultSchema,
  ModelEvaluationSchema,
  RunReportSchema,
  stepNumbers,
  type ModelEvaluation,
} from '@spindle/proto';
import { mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { startEvaluator } from './service.js';

let root: string;
let store: ArtifactStore;
let lifecycle: Lifecycle;
let client: ReturnType<typeof createClient<typeof EvaluatorService>>;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'evaluator-'));
  store = await openLocalStore(root);
  lifecycle = new Lifecycle();
  const port = await startEvaluator(lifecycle, {
    store,
    logger: createLogger('test', { level: 'silent', pretty: false }),
    address: '127.0.0.1:0',
    portFile: undefined,
    token: undefined,
    root,
  });
  client = createClient(EvaluatorService, `127.0.0.1:${port}`);
});

afterEach(async () => {
  client.close();
  await lifecycle.shutdown('test over');
  await rm(root, { recursive: true, force: true });
});

/** Commits one model's results in two shards, as the sampler and the scorer leave them. */
async function judged(
  model: string,
  values: number[],
  digest = 'sha256:1',
): Promise<ModelEvaluation> {
  const half = Math.ceil(values.length / 2);
  const [sampleKeys, scoreKeys]: [string[], string[]] = [[], []];
  for (const [shard, part] of [values.slice(0, half), values.slice(half)].entries()) {
    const images = await Promise.all(
      part.map((value) => store.put(Buffer.from(`png of ${model} ${value}`), 'image/png')),
    );
    const sampleKey = `r1/eval-sample-${model}/000${shard}`;
    const scoreKey = `r1/eval-score-${model}/000${shard}`;
    const sampled = create(JobResultSchema, {
      key: sampleKey,
      result: { case: 'sample', value: { images, count: part.length } },
    });
    const scored = create(JobResultSchema, {
      key: scoreKey,
      result: {
        case: 'score',
        value: {
          scores: [
            {
              metric: 'pick',
              values: part,
              judge: {
                kind: 'pickscore',
                files: [{ name: 'w', digest }],
                variant: 'v1',
                scale: 's',
              },
            },
            { metric: 'aesthetic', values: part.map((value) => -value) },
          ],
        },
      },
    });
    await store.commitResult(sampleKey, toJsonString(JobResultSchema, sampled));
    await store.commitResult(scoreKey, toJsonString(JobResultSchema, scored));
    sampleKeys.push(sampleKey);
    scoreKeys.push(scoreKey);
  }
  const items = values.map((_, index) => ({
    prompt: { index, prompt: `prompt ${index}`, seed: BigInt(100 + index) },
  }));
  return create(ModelEvaluationSchema, { model, sampleKeys, scoreKeys, items });
}

const step = { step: 1, loss: Number.NaN, errorReal: 1, errorGenerated: 2, loserScale: 0.5 };
const run = create(RunReportSchema, {
  runId: 'r1',
  configJson: JSON.stringify({ beta: 4000 }),
  status: 'succeeded',
  bestModel: 'spin1',
  warnings: ['w'],
  timings: [
    { stage: 'train-spin1', seconds: 2 },
    { stage: 'encode', seconds: 1 },
  ],
  curves: [{ model: 'spin1', steps: [step] }],
});

it('evaluates models against the base, shard by shard', async () => {
  const models = [await judged('base', [1, 2, 3]), await judged('spin1', [2, 2, 5])];
  const response = await client.evaluate({ runId: 'r1', models });
  const pick = response.models[1]!.metrics.find((metric) => metric.metric === 'pick')!;
  expect(pick).toMatchObject({ mean: 3, median: 2, n: 3 });
  expect(pick.winRate).toBeCloseTo(2.5 / 3);
  expect(response.models[0]!.metrics[0]).toMatchObject({ metric: 'pick', mean: 2, winRate: 0.5 });
});

it('writes below the artifacts folder by another name of it too', async () => {
  const alias = `${root}-alias`;
  await symlink(root, alias);
  try {
    const directory = join(alias, 'r2');
    await client.writeReport({ runId: 'r2', directory, models: [], run });
    expect(await readdir(join(root, 'r2'))).toContain('report.json');
  } finally {
    await rm(alias);
  }
});

it('writes the whole report, and the same bytes when called again', async () => {
  const models = [await judged('base', [1, 2, 3]), await judged('spin1', [2, 2, 5])];
  const directory = join(root, 'r1');
  const request = { runId: 'r1', directory, models, run };
  const { files } = await client.writeReport(request);
  expect(files).toEqual([
    ...['base', 'spin1'].flatMap((model) =>
      ['0000.png', '0001.png', '0002.png', 'metadata.jsonl'].map(
        (name) => `images/${model}/${name}`,
      ),
    ),
    'report.json',
    'report.md',
    'report.html',
    'scores.jsonl',
  ]);
  const read = (): Promise<string[]> =>
    Promise.all(files.map((file) => readFile(join(directory, file), 'utf8')));
  const before = await read();
  expect(await readFile(join(directory, 'images/spin1/0002.png'), 'utf8')).toBe('png of spin1 5');
  expect(await readFile(join(directory, 'images/spin1/metadata.jsonl'), 'utf8')).toContain(
    '{"file_name":"0002.png","text":"prompt 2","seed":102}\n',
  );
  expect(JSON.parse(await readFile(join(directory, 'report.json'), 'utf8'))).toMatchObject({
    run_id: 'r1',
    best_model: 'spin1',
    models: [{ name: 'base' }, { name: 'spin1' }],
  });
  expect(await readFile(join(directory, 'report.html'), 'utf8')).toContain(
    `data:image/png;base64,${Buffer.from('png of spin1 5').toString('base64')}`,
  );
  await client.writeReport(request);
  expect(await read()).toEqual(before);
  const [{ items, ...fewer }] = models as [ModelEvaluation];
  await client.writeReport({
    ...request,
    models: [
      {
        ...fewer,
        items: items.slice(0, 2),
        sampleKeys: fewer.sampleKeys.slice(0, 1),
        scoreKeys: fewer.scoreKeys.slice(0, 1),
      },
    ],
  });
  expect((await readdir(join(directory, 'images/base'))).sort()).toEqual([
    '0000.png',
    '0001.png',
    'metadata.jsonl',
  ]);
});

it('keeps the prompts that models are chosen by out of tables, images and scores', async () => {
  const all = [await judged('base', [1, 2, 3, 10, 20]), await judged('spin1', [2, 2, 5, 0, 0])];
  const models = all.map((model) => ({
    ...model,
    items: model.items.map((item, i) => ({ ...item, select: i >= 3 })),
  }));
  const { models: told } = await client.evaluate({ runId: 'r1', models });
  expect(told.map(({ metrics }) => metrics[0])).toMatchObject([
    { mean: 2, n: 3, select: { mean: 15, n: 2 } },
    { mean: 3, n: 3, select: { mean: 0, n: 2 } },
  ]);
  const directory = join(root, 'r1');
  const { files } = await client.writeReport({ runId: 'r1', directory, models, run });
  expect(files.filter((file) => file.endsWith('.png'))).toHaveLength(6);
  const lines = (await readFile(join(directory, 'scores.jsonl'), 'utf8')).trim().split('\n');
  expect(lines).toHaveLength(6);
  expect(lines.join()).not.toContain('prompt 3');
  expect(JSON.parse(await readFile(join(directory, 'report.json'), 'utf8'))).toMatchObject({
    models: [{ metrics: { pick: { n: 3, select: { mean: 15, n: 2 } } } }, {}],
  });
});

it('says when a judge was not the same for all models, by digest', async () => {
  const models = [await judged('base', [1, 2, 3]), await judged('spin1', [2, 2, 5], 'sha256:2')];
  const directory = join(root, 'r1');
  await client.writeReport({ runId: 'r1', directory, models, run });
  const report = JSON.parse(await readFile(join(directory, 'report.json'), 'utf8')) as {
    warnings: string[];
    judges: Record<string, object>;
  };
  expect(report.judges['pick']).toMatchObject({ files: [{ digest: 'sha256:1' }], scale: 's' });
  expect(report.judges['aesthetic']).toBeUndefined();
  expect(report.warnings).toContainEqual(
    expect.stringMatching(
      /metric pick: spin1 was judged by v1 \(w sha256:2…\), others by .* do not compare/,
    ),
  );
});

it('has statistics per category and the best of several images', async () => {
  const [base, model] = [await judged('base', [1, 2, 3, 4]), await judged('spin1', [2, 2, 5, 1])];
  // Two prompts with two images each, one prompt per category.
  const items = base.items.map((_, i) => ({
    prompt: { index: i >> 1, prompt: `prompt ${i >> 1}`, seed: BigInt(i) },
    category: i < 2 ? 'anime' : 'photo',
  }));
  const of = ({ model: name, sampleKeys, scoreKeys }: ModelEvaluation): ModelEvaluation =>
    create(ModelEvaluationSchema, { model: name, sampleKeys, scoreKeys, items });
  const directory = join(root, 'r1');
  await client.writeReport({ runId: 'r1', directory, models: [base, model].map(of), run });
  const { models, chosen } = JSON.parse(await readFile(join(directory, 'report.json'), 'utf8')) as {
    models: { metrics: Record<string, object> }[];
    chosen: object;
  };
  // The judges' averages are all 0 here, so that the first image of each prompt is chosen.
  expect(chosen).toMatchObject({
    ...{ n: 2, images_per_prompt: 2 },
    tables: [
      {
        metric: 'pick',
        models: [{ mean: 2 }, { mean: 3.5, median: 3.5 }],
        pairs: [{ model: 'base', other: 'spin1', win_rate: 0, difference: -1.5 }],
      },
      { metric: 'aesthetic', pairs: [{ win_rate: 1 }] },
      { metric: null, pairs: [{ win_rate: 0.5 }] },
    ],
  });
  expect(models[1]!.metrics['pick']).toMatchObject({
    ...{ mean: 2.5, n: 2, images: 4, win_rate: 0.625, win_rate_ties_lose: 0.5, difference: 0 },
    best_of: { images: 2, mean: 3.5, difference: 0.5 },
    categories: {
      anime: { mean: 2, n: 1, difference: 0.5 },
      photo: { mean: 3, n: 1, difference: -0.5 },
    },
  });
  expect(await readFile(join(directory, 'scores.jsonl'), 'utf8')).toContain(
    '{"model":"spin1","prompt_index":1,"prompt":"prompt 1","category":"photo","seed":2,"scores":{"pick":5,"aesthetic":-5}}\n',
  );
});

it('corrects the tests for all that the report compares, and calls a model better by the corrected ones', async () => {
  const values = [1, 2, 3, 4, 5, 6, 7];
  // Two models and two metrics; all seven prompts are won: 2 of 128 patterns are as extreme.
  const models = [
    await judged('base', values),
    await judged(
      'spin1',
      values.map((value) => value + 1),
    ),
    await judged('spin2', values),
  ];
  const directory = join(root, 'r1');
  await client.writeReport({ runId: 'r1', directory, models, run });
  const report = JSON.parse(await readFile(join(directory, 'report.json'), 'utf8')) as {
    models: { metrics: Record<string, object> }[];
    best_against: object[];
  };
  expect(report.models.map(({ metrics }) => metrics['pick'])).toMatchObject([
    { p_value: 1, p_corrected: 1, verdict: 'undecided' },
    { p_value: 1 / 64, p_corrected: 1 / 16, verdict: 'undecided' },
    { p_value: 1, p_corrected: 1, verdict: 'undecided' },
  ]);
  expect(report.best_against).toMatchObject(
    ['base', 'spin2'].map((model) => ({
      best: 'spin1',
      model,
      p_value: 1 / 64,
      p_corrected: 1 / 32,
      verdict: 'better',
    })),
  );
});

it('writes the report of a run without evaluation: its curves and settings', async () => {
  const directory = join(root, 'r1');
  const { files } = await client.writeReport({ runId: 'r1', directory, models: [], run });
  expect(files).toEqual(['report.json', 'report.md', 'report.html']);
  const report = JSON.parse(await readFile(join(directory, 'report.json'), 'utf8')) as {
    models: unknown[];
    timings: object;
    curves: Record<string, object[]>;
  };
  expect(report.models).toEqual([]);
  // As other tools read it: every number of a step, null where it was not finite.
  expect(Object.keys(report.timings)).toEqual(['train-spin1', 'encode']);
  expect(Object.keys(report.curves)).toEqual(['spin1']);
  const [point = {}] = report.curves['spin1'] ?? [];
  expect(Object.keys(point)).toEqual(stepNumbers.map(({ name }) => name));
  expect(point).toMatchObject({ step: 1, loss: null, error_generated: 2, loser_scale: 0.5 });
  const html = await readFile(join(directory, 'report.html'), 'utf8');
  expect(html).toContain('No model was judged.');
  expect(html).toContain('<svg');
});

it('refuses what does not fit together, by name', async () => {
  const base = await judged('base', [1, 2, 3]);
  const short = create(ModelEvaluationSchema, {
    ...base,
    model: 'spin1',
    scoreKeys: base.scoreKeys.slice(0, 1),
  });
  await expect(client.evaluate({ models: [base, short] })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: 'spin1: metric pick: expected 3 scores (one per item), got 2',
  });
  const missing = create(ModelEvaluationSchema, {
    ...base,
    scoreKeys: ['r1/eval-score-base/0009'],
  });
  await expect(client.evaluate({ models: [missing] })).rejects.toMatchObject({
    code: 'NOT_FOUND',
    message: 'r1/eval-score-base/0009: expected a committed result, got none',
  });
  const wrong = create(ModelEvaluationSchema, { ...base, scoreKeys: base.sampleKeys });
  await expect(client.evaluate({ models: [wrong] })).rejects.toMatchObject({
    message: 'r1/eval-sample-base/0000: expected the result of a score job, got sample',
  });
  await expect(client.evaluate({ models: [] })).rejects.toMatchObject({
    message: 'models: expected at least the base, got none',
  });
  await expect(client.writeReport({ directory: 'r1', models: [base], run })).rejects.toMatchObject({
    message: `directory: expected an absolute path below the artifacts folder ${root}, got "r1"`,
  });
  for (const outside of [root, tmpdir(), `${root}-x/r1`, join(root, 'r1/../..'), '/'])
    await expect(
      client.writeReport({ directory: outside, models: [base], run }),
    ).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining(`below the artifacts folder ${root}, got`) as string,
    });
  await expect(
    client.writeReport({ directory: join(root, 'r1'), models: [base] }),
  ).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: 'run.run_id: expected a run, got nothing',
  });
  const escaping = create(ModelEvaluationSchema, { ...base, model: '../x' });
  await expect(
    client.writeReport({ directory: join(root, 'r1'), models: [escaping], run }),
  ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(
    client.writeReport({
      directory: join(root, 'r1'),
      models: [base],
      run: { ...run, configJson: '{' },
    }),
  ).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: 'run.config_json: expected JSON, got text that does not parse',
  });
});
