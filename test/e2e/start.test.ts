import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { NodeChild, root } from '../harness/child.js';
import { readJson } from '../harness/mesh.js';
import type { Runtime } from '../harness/up.js';
import { until } from '../harness/wait.js';

let artifacts: string;
beforeAll(async () => {
  artifacts = await mkdtemp(join(tmpdir(), 'spindle-start-'));
});
afterAll(() => rm(artifacts, { recursive: true, force: true }));

async function start(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<NodeChild> {
  const child = new NodeChild(
    join(root, 'scripts/start.mjs'),
    ['--artifacts', artifacts, ...args],
    { env },
  );
  await child.exited;
  return child;
}

it('npm start runs a config from nothing to the results table, and ends with 0', async () => {
  const child = await start(['--config', join(root, 'examples/scenes/tiny-run.yaml')], {
    CI: 'true',
  });
  expect(await child.exited, child.tail(40)).toBe(0);
  expect(child.stdout).toMatch(/status page: http:\/\/127\.0\.0\.1:\d+\/\?token=\S{43}$/m);
  expect(child.stdout).toMatch(/^spin2( \*)? .* ± /m);
  expect(child.stdout).toMatch(/mesh and run: .* min/);
  const [run] = (await readdir(artifacts)).filter((name) => name.startsWith('tiny-'));
  expect(existsSync(join(artifacts, run ?? '', 'report.html'))).toBe(true);
});

it('npm start with a config that is not there starts nothing', async () => {
  const child = await start(['--exit', '--config', join(artifacts, 'none.yaml')]);
  expect(await child.exited).toBe(2);
  expect(child.stderr).toMatch(/^error: --config: expected a file, got .*none\.yaml/);
  expect(child.stdout).toBe('');
});

it('npm start that is stopped in the middle ends soon, with an exit code, and leaves no process behind', async () => {
  const child = new NodeChild(join(root, 'scripts/start.mjs'), [
    '--exit',
    '--artifacts',
    artifacts,
    '--config',
    join(root, 'examples/scenes/tiny-run.yaml'),
  ]);
  await until('training', () => child.stdout.includes('train-sft: running') || undefined);
  const { services } = (await readJson(join(artifacts, 'runtime.json'))) as Runtime;
  expect(services.length).toBeGreaterThanOrEqual(5);
  await child.stop('SIGTERM', 30_000);
  expect(await child.exited).toBe(1);
  for (const { name, pid } of services) expect(() => process.kill(pid, 0), name).toThrow(/ESRCH/);
  expect(existsSync(join(artifacts, 'runtime.json'))).toBe(false);
});
