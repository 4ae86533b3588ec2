import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ServiceChild } from './child.js';

/** Writes its port as services do, then lives until it is told to end. */
const service = `
import { writeFileSync } from 'node:fs';
const port = process.env.SPINDLE_GRPC_ADDRESS?.split(':')[1] ?? '0';
console.error(JSON.stringify({ level: 'info', msg: 'listening on ' + port }));
writeFileSync(process.env.SPINDLE_PORT_FILE, (port === '0' ? '4711' : port) + '\\n4712\\n');
setInterval(() => undefined, 1000);
process.on('SIGTERM', () => process.exit(0));
`;

let folder: string;
let abort: AbortController;
let lines: string[];
let restarts: string[];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spindle-child-'));
  abort = new AbortController();
  lines = [];
  restarts = [];
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function child(
  source: string,
  logFile = join(folder, 'log'),
): Promise<{ child: ServiceChild; environment: NodeJS.ProcessEnv }> {
  const main = join(folder, 'main.mjs');
  await writeFile(main, source);
  const portFile = join(folder, 'port');
  const environment: NodeJS.ProcessEnv = {
    SPINDLE_PORT_FILE: portFile,
    SPINDLE_GRPC_ADDRESS: '127.0.0.1:0',
  };
  const started = new ServiceChild({
    name: 'sampler',
    main,
    environment,
    portFile,
    logFile,
    signal: abort.signal,
    onLine: (_name, line) => lines.push(line),
    onRestart: (_name, reason) => restarts.push(reason),
    onStart: () => undefined,
  });
  return { child: started, environment };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}

it('is started again where it was when it is killed', async () => {
  const { child: sampler, environment } = await child(service);
  await sampler.start();
  expect(sampler.ports).toEqual([4711, 4712]);
  environment['SPINDLE_GRPC_ADDRESS'] = '127.0.0.1:4711';
  const { pid } = sampler;
  process.kill(pid, 'SIGKILL');
  await until(() => lines.some((line) => line.includes('listening on 4711')));
  expect(restarts).toEqual(['killed by SIGKILL']);
  expect(sampler.pid).not.toBe(pid);
  await sampler.stop();
  expect(restarts).toHaveLength(1);
  expect(await readFile(join(folder, 'log'), 'utf8')).toContain('listening');
});

it('says why when it cannot start', async () => {
  const { child: sampler } = await child(
    `console.error('sampler: no engine here'); process.exit(3);`,
  );
  await expect(sampler.start()).rejects.toThrow(
    'sampler did not start (exit code 3): sampler: no engine here',
  );
});

it('goes on with its log file once it can be written again', async () => {
  const { child: sampler } = await child(
    `${service} setInterval(() => console.error('{"msg":"beat"}'), 5);`,
    join(folder, 'logs', 'log'),
  );
  await sampler.start();
  await until(() => lines.length > 2);
  // A folder that is not there fails as a full disk does.
  await mkdir(join(folder, 'logs'));
  const log = join(folder, 'logs', 'log');
  await until(() => existsSync(log) && readFileSync(log, 'utf8').includes('beat'));
  await sampler.stop();
});
