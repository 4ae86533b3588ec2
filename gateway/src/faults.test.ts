/** The gateway beside damaged files and a message server that goes away. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { sealed, unsealed } from '@spindle/kit';
import { RunStatus, type Run } from '@spindle/proto';
import type { FakeBehaviour } from './testing/fakes.js';
import { startHarness, type Harness } from './testing/harness.js';

let harness: Harness | undefined;
afterEach(async () => {
  await harness?.stop();
  harness = undefined;
});

async function start(behaviour: FakeBehaviour = {}): Promise<Harness> {
  harness = await startHarness(behaviour);
  return harness;
}

it('lists runs whose records are damaged, with what is wrong, and goes on with the others', async () => {
  const h = await start({ stepMs: 10 });
  await h.create();
  const text = await readFile(join(h.root, 'r1', 'run.json'), 'utf8');
  const json = unsealed(text, 'r1');
  const plan = /"plan":\{/;
  const damaged: Record<string, [string, RegExp]> = {
    stray: ['{"schemaVersion":1}', /expected/],
    'no-plan': [
      sealed(json.replaceAll('"r1"', '"no-plan"').replace(plan, '"plam":{')),
      /state\.plan/,
    ],
    'no-state': [json.replaceAll('"r1"', '"no-state"').replace('"state"', '"stave"'), /state/],
    flipped: [text.replace('"resolution":6', '"resolution":7'), /it is damaged/],
    copied: [text, /runId: expected "copied", got "r1"/],
    empty: ['', /do not parse/],
  };
  for (const [name, [record]] of Object.entries(damaged)) {
    await mkdir(join(h.root, name));
    await writeFile(join(h.root, name, 'run.json'), record);
  }
  // In the bucket alone, and there beside a file that is whole.
  await h.bus.kv('runs').put('bucket-only', '{"schemaVersion":1,"state":{}}');
  await h.gateway.stop();
  await h.bus.kv('runs').put('r1', text.slice(0, -20));
  await h.restartGateway();
  const { runs } = await h.client.listRuns({});
  const unreadable = new Map(
    runs.filter((run) => run.status === RunStatus.UNREADABLE).map((run) => [run.runId, run.reason]),
  );
  expect([...unreadable.keys()].sort()).toEqual([...Object.keys(damaged), 'bucket-only'].sort());
  for (const [name, [, reason]] of Object.entries(damaged))
    expect(unreadable.get(name)).toMatch(reason);
  await expect(h.client.getRun({ runId: 'stray' })).rejects.toThrow('run "stray" is unreadable: ');
  await expect(h.create({}, 'stray')).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  const address = `http://127.0.0.1:${h.gateway.httpPort}/api/runs`;
  const page = (await (await fetch(address)).json()) as { runs: Run[] };
  expect(page.runs.map(({ runId }) => runId)).toContain('no-plan');
  expect((await h.finished('r1')).status).toBe(RunStatus.SUCCEEDED);
});

it('keeps a watch open while NATS is away for longer than the lease, and says that it waits', async () => {
  const h = await start({ stepMs: 50 });
  await h.create();
  let last: Run | undefined;
  const controller = new AbortController();
  const watching = (async () => {
    const { signal } = controller;
    for await (const { run } of h.client.watchRun({ runId: 'r1' }, { signal })) last = run;
  })();
  const page = new AbortController();
  const address = `http://127.0.0.1:${h.gateway.httpPort}/api/runs`;
  const events = await fetch(`${address}/r1/events`, { signal: page.signal });
  await expect.poll(() => last?.status, { timeout: 10_000 }).toBe(RunStatus.RUNNING);
  const revive = await h.killNats();
  await expect.poll(() => h.gateway.orchestrator.ready, { timeout: 20_000 }).toBe(false);
  await expect(h.client.listRuns({})).rejects.toThrow('waiting for NATS');
  expect((await fetch(address)).status).toBe(503);
  // Several turns of the watch's and the page's timers.
  const lost = performance.now();
  await expect.poll(() => performance.now() - lost, { timeout: 5_000 }).toBeGreaterThan(1_500);
  await revive();
  await watching;
  expect(last?.status).toBe(RunStatus.SUCCEEDED);
  // The page's stream belongs to no driver: it tells of the run as it is now.
  let told = '';
  const decoder = new TextDecoder();
  for await (const piece of events.body ?? []) {
    told += decoder.decode(piece as Uint8Array);
    if (told.includes('RUN_STATUS_SUCCEEDED')) break;
  }
  page.abort();
  controller.abort();
});
