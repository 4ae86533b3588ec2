import { request } from 'node:http';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startHarness, type Harness } from '../testing/harness.js';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
  await harness.create();
  await harness.finished('r1');
});
afterAll(() => harness.stop());

interface Answer {
  status: number;
  type: string;
  body: Buffer;
}

/** fetch cannot send another Host header. */
function get(path: string, options: { host?: string; method?: string } = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = options.host === undefined ? {} : { host: options.host };
    const sent = request(
      {
        port: harness.gateway.httpPort,
        host: '127.0.0.1',
        path,
        headers,
        method: options.method ?? 'GET',
      },
      (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            type: response.headers['content-type'] ?? '',
            body: Buffer.concat(parts),
          }),
        );
      },
    );
    sent.on('error', reject);
    sent.end();
  });
}

async function json<T>(path: string): Promise<T> {
  const { status, body } = await get(path);
  expect(status).toBe(200);
  return JSON.parse(body.toString()) as T;
}

it('serves the page and everything it refers to', async () => {
  const page = (await get('/')).body.toString();
  const local = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1] ?? '');
  expect(local.length).toBeGreaterThan(2);
  for (const path of local) {
    expect(path.startsWith('/')).toBe(true);
    expect((await get(path)).status).toBe(200);
  }
});

it('gives runs, training curves and grids as JSON', async () => {
  expect(
    (await json<{ runs: { runId: string }[] }>('/api/runs')).runs.map((run) => run.runId),
  ).toEqual(['r1']);
  const details = await json<{
    run: { status: string; stages: unknown[] };
    training: Record<string, unknown[]>;
    queues: Record<string, unknown>;
  }>('/api/runs/r1');
  expect(details.run.status).toBe('RUN_STATUS_SUCCEEDED');
  expect(details.training['spin2']).toHaveLength(6);
  expect(Object.keys(details.queues)).toEqual(['encode', 'sample', 'score']);
  const grid = await json<{
    prompts: { prompt: string }[];
    models: { model: string; indices: number[] }[];
  }>('/api/runs/r1/images');
  expect(grid.prompts.map((p) => p.prompt)).toEqual(['one', 'two', 'three']);
  expect(grid.models.map((m) => m.model)).toEqual(['base', 'sft', 'spin1', 'spin2']);
  const image = await get('/api/runs/r1/images/spin1/2.png');
  expect([image.status, image.type, image.body.subarray(1, 4).toString()]).toEqual([
    200,
    'image/png',
    'PNG',
  ]);
});

it('streams the run as server-sent events', async () => {
  const abort = new AbortController();
  const response = await fetch(`http://127.0.0.1:${harness.gateway.httpPort}/api/runs/r1/events`, {
    signal: abort.signal,
  });
  expect(response.headers.get('content-type')).toContain('text/event-stream');
  const reader = response.body!.getReader();
  const { value } = (await reader.read()) as { value: Uint8Array };
  expect(new TextDecoder().decode(value)).toMatch(/^event: run\ndata: \{"runId":"r1"/);
  abort.abort();
});

it.each([
  ['/nothing', 404],
  ['/api/runs/none', 404],
  ['/api/runs/r1/images/spin1/99.png', 404],
  ['/api/runs/r1/images/..%2F..%2Frun.json/0.png', 404],
  ['/api/runs/r1/images/spin1/..%2Fx.png', 404],
  ['/..%2Fpackage.json', 404],
  ['/%ff', 400],
  ['http://[', 400],
])('answers %s with %d', async (path, status) => {
  expect((await get(path)).status).toBe(status);
});

it('answers only to its own names and only to reads', async () => {
  expect((await get('/api/runs', { host: 'evil.example' })).status).toBe(403);
  expect((await get('/api/runs', { host: `localhost:${harness.gateway.httpPort}` })).status).toBe(
    200,
  );
  expect((await get('/api/runs', { method: 'POST' })).status).toBe(405);
});
