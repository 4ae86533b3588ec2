/** Hundreds of runs and of visitors: what is sent of them, and what stays behind. */
import { type ServiceClient } from '@spindle/kit';
import {
  ListRunsResponseSchema,
  type RunService,
  RunStatus,
  RunView,
  type Run,
} from '@spindle/proto';
import { toBinary } from '@bufbuild/protobuf';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startHarness, type Harness } from './testing/harness.js';
import { drawingRecord, succeededRecord, writeRecords } from './testing/records.js';

const runs = 300;
const waiting = 'waiting';
const now = Date.now();
const name = (i: number): string => `run-${String(i).padStart(3, '0')}`;

let h: Harness;
beforeAll(async () => {
  h = await startHarness({ stepMs: 1_000 });
  const ended = Array.from({ length: runs - 1 }, (_, i) =>
    // Some are of one moment: their names decide.
    succeededRecord(name(i), now - 3_600_000 + 1_000 * Math.floor(i / 3)),
  );
  const paused = drawingRecord(waiting, now, 20, 10);
  Object.assign(paused.state, { status: 'paused' });
  writeRecords(h.root, [...ended, paused]);
  await h.restartGateway();
});
afterAll(() => h.stop());

async function pages(pageSize: number, view = RunView.BASIC): Promise<Run[][]> {
  const all: Run[][] = [];
  for (let pageToken = ''; ; ) {
    const page = await h.client.listRuns({ pageSize, pageToken, view });
    all.push(page.runs);
    pageToken = page.nextPageToken;
    if (pageToken === '') return all;
  }
}

const idsOf = (list: Run[][]): string[] => list.flat().map(({ runId }) => runId);

it('lists every run once, newest first, in small pages without configs', async () => {
  const all = await pages(50);
  const ids = idsOf(all);
  expect(all.map((page) => page.length)).toEqual([50, 50, 50, 50, 50, 50]);
  expect(ids).toEqual([waiting, ...Array.from({ length: runs - 1 }, (_, i) => name(i)).reverse()]);
  for (const page of all) {
    const bytes = toBinary(ListRunsResponseSchema, {
      $typeName: 'spindle.v1.ListRunsResponse',
      runs: page,
      nextPageToken: '',
    });
    expect(bytes.byteLength).toBeLessThan(50 * 300);
    for (const run of page)
      expect([run.configJson, run.results.length, run.warnings.length]).toEqual(['', 0, 0]);
  }
  const [[first] = [], , , , , [last] = []] = all;
  expect(first).toMatchObject({
    name: waiting,
    status: RunStatus.PAUSED,
    iteration: 1,
    iterations: 1,
  });
  expect(first?.stages.map(({ stage }) => stage)).toEqual(['sample-base']);
  expect(last).toMatchObject({
    status: RunStatus.SUCCEEDED,
    iteration: 3,
    progress: 1,
    bestModel: 'spin3',
  });
  expect(last?.bestScore).toBeCloseTo(0.23);
  expect(last?.directory).toContain(last?.runId);
});

it('gives whole runs to who asks for them, as GetRun does', async () => {
  const [[, one] = []] = await pages(200, RunView.FULL);
  const { run } = await h.client.getRun({ runId: one?.runId ?? '' });
  expect(run?.configJson).not.toBe('');
  expect(one).toEqual(run);
});

it('misses and repeats no run while others come and go', async () => {
  const first = await h.client.listRuns({ pageSize: 100 });
  await h.create({}, 'newer');
  // The run that the token names is gone when the next page is asked for.
  const gone = first.runs.at(-1)?.runId ?? '';
  await h.client.deleteRun({ runId: gone });
  const second = await h.client.listRuns({ pageSize: 200, pageToken: first.nextPageToken });
  const seen = [...first.runs, ...second.runs].map(({ runId }) => runId);
  expect(seen).toHaveLength(runs);
  expect(new Set(seen).size).toBe(runs);
  expect(second.nextPageToken).toBe('');
  await expect(h.client.listRuns({ pageToken: 'run-001' })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
});

it('sends the list to a page once, until a run has changed', async () => {
  await h.client.cancelRun({ runId: 'newer' });
  const address = `http://127.0.0.1:${h.gateway.httpPort}/api/runs`;
  const ask = (tag: string, method = 'GET'): Promise<Response> =>
    fetch(address, { method, headers: { 'If-None-Match': tag } });
  const first = await fetch(address);
  const tag = first.headers.get('etag') ?? '';
  expect(first.headers.get('cache-control')).toBe('no-cache');
  const { runs: listed } = (await first.json()) as { runs: { runId: string; name: string }[] };
  expect(listed).toHaveLength(runs);
  expect(JSON.stringify(listed)).not.toContain('configJson');
  for (const known of [tag, `W/${tag}`, `"other", ${tag}`]) {
    const again = await ask(known);
    expect([again.status, await again.text()]).toEqual([304, '']);
  }
  expect((await ask('"other"')).status).toBe(200);
  await h.client.deleteRun({ runId: 'newer' });
  const later = await ask(tag);
  expect(later.status).toBe(200);
  expect(((await later.json()) as { runs: unknown[] }).runs).toHaveLength(runs - 1);
  expect((await ask(later.headers.get('etag') ?? '')).status).toBe(304);
});

it('keeps no listener and no timer of five hundred clients that came and went', async () => {
  const timers = (): number =>
    process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const listeners = (): number => h.gateway.orchestrator.news.listenerCount('news');
  const watch = async (client: ServiceClient<typeof RunService>): Promise<void> => {
    for await (const { run } of client.watchRun({ runId: waiting })) {
      expect(run?.runId).toBe(waiting);
      return;
    }
  };
  const read = async (): Promise<void> => {
    const gone = new AbortController();
    const address = `http://127.0.0.1:${h.gateway.httpPort}/api/runs/${waiting}/events`;
    const { body } = await fetch(address, { signal: gone.signal });
    await body?.getReader().read();
    gone.abort();
  };
  await Promise.all([watch(h.client), read()]);
  await expect.poll(listeners).toBe(0);
  const before = timers();
  for (let round = 0; round < 10; round++)
    await Promise.all(
      Array.from({ length: 50 }, (_, i) => (i % 2 === 0 ? watch(h.client) : read())),
    );
  await expect.poll(listeners).toBe(0);
  // Those of the gateway's own rounds come and go.
  await expect.poll(timers, { timeout: 10_000 }).toBeLessThanOrEqual(before + 10);
});
