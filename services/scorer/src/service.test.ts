import { create, fromJsonString, type MessageInitShape } from '@bufbuild/protobuf';
import { createClient, Lifecycle } from '@spindle/kit';
import { openLocalStore, type ArtifactStore, type Bus } from '@spindle/mesh';
import { logger } from '@spindle/kit/testing';
import { startTestNats, type TestNats } from '@spindle/mesh/testing';
import {
  JobResultSchema,
  JobSchema,
  MetricSpecSchema,
  ScoreItemSchema,
  ScorerService,
  type InspectJudgeRequestSchema,
  type Job,
  type MetricSpec,
  type ScoreItem,
} from '@spindle/proto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { ScorerEngine } from './engine.js';
import { Scorer } from './score.js';
import { startScorer } from './service.js';

let nats: TestNats;
let bus: Bus;
let store: ArtifactStore;
let root: string;
let lifecycle: Lifecycle;
let log: string[];

const metrics: MetricSpec[] = [
  create(MetricSpecSchema, { name: 'pick', kind: 'clip', clipPath: '/clip' }),
  create(MetricSpecSchema, {
    name: 'aesthetic',
    kind: 'aesthetic',
    clipPath: '/clip',
    headPath: '/head',
  }),
];

function notFound(path: string): Error {
  return Object.assign(new Error(`${path}: expected a model folder, got no such folder`), {
    code: 'INVALID_ARGUMENT',
  });
}

/** Scores are sums of bytes and lengths of prompts. */
function fakeEngine(): ScorerEngine {
  return {
    info: {
      version: '0',
      backend: 'fake',
      isa: 'none',
      threads: 1,
      cpu: 'none',
      backends: ['fake'],
    },
    inspectJudge({ kind, clipPath }) {
      if (clipPath === '/missing') throw notFound(clipPath);
      log.push(`inspect ${kind} ${clipPath}`);
      return {
        kind: kind === 'image_reward' ? 'ImageReward' : 'CLIPModel',
        embeddingWidth: 8,
        textTokens: 77,
        warnings: clipPath === '/bare' ? ['/bare: no preprocessor_config.json'] : [],
      };
    },
    inspectHead(path) {
      log.push(`inspect head ${path}`);
      return { kind: 'AestheticHead', embeddingWidth: 8, textTokens: 0, warnings: [] };
    },
    async readImage(bytes, where) {
      if (bytes.toString().startsWith('broken'))
        throw Object.assign(
          new Error(`${where}: expected an image, got a file that does not decode`),
          { code: 'INVALID_ARGUMENT' },
        );
      return { rgb: Uint8Array.from(bytes), width: 1, height: 1 };
    },
    async loadModel({ clipPath, kind }) {
      if (clipPath === '/missing') throw notFound(clipPath);
      log.push(`model ${clipPath}`);
      return {
        async judge(group, images, prompts, heads) {
          log.push(`embed ${images.length}`);
          const bytes = images.map((image) => image.rgb[0] ?? 0);
          const info = (one: (typeof group)[number]) => ({
            kind: one.kind,
            files: [{ name: 'w', digest: 'sha256:0' }],
            variant: kind,
            scale: 'x',
            preprocess: 'transformers',
          });
          return Promise.all(
            group.map(async (one) => ({
              judge: info(one),
              values:
                one.kind === 'aesthetic'
                  ? await heads(one.headPath, (head) =>
                      head.score({ data: Float32Array.from(bytes), shape: [bytes.length, 1] }),
                    )
                  : prompts.map((text, n) => (bytes[n] ?? 0) + text.length),
            })),
          );
        },
        release: () => undefined,
      };
    },
    async loadHead(directory) {
      log.push(`head ${directory}`);
      return {
        version: 'v2',
        files: [],
        score: async (images) =>
          images.data.map((value) => (directory === '/nan' ? Number.NaN : value / 2)),
        release: () => undefined,
      };
    },
    close: () => undefined,
  };
}

let address: string;
beforeEach(async () => {
  nats = await startTestNats();
  bus = await nats.provisioned();
  root = await mkdtemp(join(tmpdir(), 'scorer-'));
  store = await openLocalStore(root);
  lifecycle = new Lifecycle();
  log = [];
  const port = await startScorer(lifecycle, {
    engine: fakeEngine(),
    store,
    bus: await nats.bus('w1'),
    logger,
    workerId: 'w1',
    address: '127.0.0.1:0',
    portFile: undefined,
    takesJobs: true,
    drainSeconds: 0,
    token: undefined,
  });
  address = `127.0.0.1:${port}`;
});

afterEach(async () => {
  await lifecycle.shutdown('test over');
  await nats.close();
  await rm(root, { recursive: true, force: true });
});

async function item(index: number, bytes: string, prompt: string): Promise<ScoreItem> {
  return create(ScoreItemSchema, {
    prompt: { index, prompt, seed: 1n },
    image: await store.put(Buffer.from(bytes), 'image/png'),
  });
}

async function scoreJob(key: string, count: number, specs = metrics): Promise<Job> {
  const items = await Promise.all(
    Array.from({ length: count }, (_, i) => item(i, 'A', 'x'.repeat(i))),
  );
  return create(JobSchema, {
    key,
    runId: 'r1',
    work: { case: 'score', value: { metrics: specs, items } },
  });
}

it('scores a job by every metric in the order of its items, embedding each image once', async () => {
  await bus.publishJob(await scoreJob('r1/eval-score-base/0000', 40), 0);
  await expect
    .poll(() => store.getResult('r1/eval-score-base/0000'), { timeout: 10_000 })
    .not.toBeNull();
  const { result, worker } = fromJsonString(
    JobResultSchema,
    (await store.getResult('r1/eval-score-base/0000'))!,
  );
  if (result.case !== 'score') throw new Error('expected a score result');
  expect(worker).toBe('w1');
  expect(result.value.scores.map((scores) => scores.metric)).toEqual(['pick', 'aesthetic']);
  expect(result.value.scores[0]!.values).toEqual(Array.from({ length: 40 }, (_, i) => 65 + i));
  expect(result.value.scores[1]!.values[39]).toBe(32.5);
  expect(result.value.scores[0]!.judge).toMatchObject({
    kind: 'clip',
    files: [{ name: 'w', digest: 'sha256:0' }],
    scale: 'x',
  });
  expect(log).toEqual(['model /clip', 'embed 32', 'head /head', 'embed 8']);
});

it('answers calls, and refuses bad ones by name', async () => {
  const client = createClient(ScorerService, address);
  const items = [await item(0, 'B', 'abc')];
  expect((await client.score({ metrics, items })).scores).toMatchObject([
    { metric: 'pick', values: [69] },
    { metric: 'aesthetic', values: [33] },
  ]);
  await expect(client.score({ metrics: [], items })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: 'metrics: expected at least one, got none',
  });
  await expect(client.score({ metrics, items: [] })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: 'items: expected at least one image, got none',
  });
  const broken = [await item(0, 'broken', 'x')];
  await expect(client.score({ metrics, items: broken })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(/^items\[0\] \(sha256:.*does not decode/) as string,
  });
  const poisoned = [metrics[0]!, create(MetricSpecSchema, { ...metrics[1]!, headPath: '/nan' })];
  await expect(client.score({ metrics: poisoned, items })).rejects.toMatchObject({
    code: 'DIVERGED',
    message: 'metric aesthetic: expected a finite score, got NaN for items[0]',
  });
  client.close();
});

it('says what a judge and a head are without loading them, and what is wrong with them', async () => {
  const client = createClient(ScorerService, address);
  const [pick, aesthetic] = metrics;
  const inspect = (part: MessageInitShape<typeof InspectJudgeRequestSchema>['part']) =>
    client.inspectJudge({ part: part ?? { case: undefined } });
  expect(await inspect({ case: 'judge', value: pick! })).toMatchObject({
    kind: 'CLIPModel',
    embeddingWidth: 8,
    textTokens: 77,
  });
  const bare = await inspect({ case: 'judge', value: { ...aesthetic!, clipPath: '/bare' } });
  expect(bare.warnings).toEqual(['/bare: no preprocessor_config.json']);
  expect(await inspect({ case: 'headPath', value: '/head' })).toMatchObject({
    kind: 'AestheticHead',
    embeddingWidth: 8,
  });
  expect(log).toEqual(['inspect clip /clip', 'inspect aesthetic /bare', 'inspect head /head']);
  const refused: [MessageInitShape<typeof InspectJudgeRequestSchema>['part'], string][] = [
    [
      { case: 'judge', value: { ...pick!, clipPath: '/missing' } },
      '/missing: expected a model folder, got no such folder',
    ],
    [
      { case: 'judge', value: { kind: 'clip' } },
      "judge.clip_path: expected the model's folder or file, got nothing",
    ],
    [{ case: 'headPath', value: '' }, "head_path: expected the head's folder or file, got nothing"],
    [{ case: undefined }, 'part: expected a judge or a head, got nothing'],
  ];
  for (const [part, message] of refused)
    await expect(inspect(part)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message });
  client.close();
});

it('loads every model once per job when there are more than it keeps, those in memory first', async () => {
  const scorer = new Scorer(fakeEngine(), store, 2);
  const specs = ['/a', '/b', '/c'].map((clipPath) =>
    create(MetricSpecSchema, { name: clipPath.slice(1), kind: 'pickscore', clipPath }),
  );
  const items = await Promise.all(Array.from({ length: 40 }, (_, i) => item(i, 'A', 'x')));
  const { signal } = new AbortController();
  const loads = () => log.filter((line) => line.startsWith('model'));
  const scores = await scorer.score({ runId: '', specs, items }, signal);
  expect(scores.map(({ metric, values }) => [metric, values.length])).toEqual([
    ['a', 40],
    ['b', 40],
    ['c', 40],
  ]);
  expect(loads()).toEqual(['model /a', 'model /b', 'model /c']);
  log.length = 0;
  expect(await scorer.score({ runId: '', specs, items }, signal)).toEqual(scores);
  expect(loads()).toEqual(['model /a']);
  scorer.release();
});

it('dead-letters a job whose judge is missing, with the reason', async () => {
  const specs = [create(MetricSpecSchema, { name: 'pick', kind: 'clip', clipPath: '/missing' })];
  await bus.publishJob(await scoreJob('r1/eval-score-base/0001', 1, specs), 0);
  await expect
    .poll(() => bus.deadLetters('r1'), { timeout: 10_000 })
    .toMatchObject([
      {
        key: 'r1/eval-score-base/0001',
        reason: expect.stringContaining('/missing') as string,
        attempts: 1,
      },
    ]);
});
