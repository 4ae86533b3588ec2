// A message server, a gateway and whatever else a load test starts, each a process of its own.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const ticksPerSecond = 100;

/** A module of a built tree, this one or another. */
export function built(tree, path) {
  return import(pathToFileURL(join(tree, path)).href);
}

export async function until(condition, what, ms = 120_000) {
  for (const started = performance.now(); ; ) {
    const value = await condition();
    if (value) return value;
    if (performance.now() - started > ms) throw new Error(`${what}: not after ${ms / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Processor seconds that a process has used, and its resident memory in MiB. */
export function usage(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
  const resident = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return {
    cpu: (Number(fields[11]) + Number(fields[12])) / ticksPerSecond,
    rss: Number(resident?.[1] ?? 0) / 1024,
  };
}

/** A folder, a message server and a gateway of `tree` over the records that are in the folder. */
export class LoadMesh {
  #nats;
  #gateway;
  #heapFile;

  constructor(tree) {
    this.tree = tree;
    this.folder = mkdtempSync(join(tmpdir(), 'spindle-load-'));
    this.artifacts = join(this.folder, 'artifacts');
    mkdirSync(this.artifacts);
    this.#heapFile = join(this.folder, 'heap.json');
  }

  async startNats() {
    const { startNatsServer } = await built(this.tree, 'services/mesh/dist/index.js');
    const { createLogger } = await built(this.tree, 'services/kit/dist/index.js');
    const logger = createLogger('load', { level: 'silent' });
    this.#nats = await startNatsServer({ dir: join(this.folder, 'nats'), logger });
  }

  /** Ready when it returns; `flags` are Node's. */
  async startGateway(flags = []) {
    const portFile = join(this.folder, 'ports');
    const nowhere = '127.0.0.1:9';
    const names = ['TRAINER', 'EVALUATOR', 'SAMPLER', 'SCORER'];
    this.#gateway = this.start(join(this.tree, 'gateway/dist/main.js'), [], {
      flags: ['--expose-gc', '--import', join(here, 'heap.mjs'), ...flags],
      env: {
        LOAD_HEAP_FILE: this.#heapFile,
        SPINDLE_ARTIFACTS: this.artifacts,
        SPINDLE_PORT_FILE: portFile,
        SPINDLE_LOG_LEVEL: 'error',
        ...Object.fromEntries(names.map((name) => [`SPINDLE_${name}_ADDRESS`, nowhere])),
      },
    });
    const ports = await until(() => {
      if (this.#gateway.exitCode !== null) throw new Error('the gateway ended');
      try {
        return readFileSync(portFile, 'utf8').trim().split('\n').map(Number);
      } catch {
        return null;
      }
    }, 'the gateway');
    [this.grpcPort, this.httpPort] = ports;
  }

  /** A script of this folder, or any, which finds the message server. */
  start(script, args, { flags = [], env = {} } = {}) {
    const path = script.startsWith('/') ? script : join(here, script);
    return spawn(process.execPath, [...flags, path, ...args], {
      env: { ...process.env, SPINDLE_NATS_URL: this.#nats.url, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  }

  get natsUrl() {
    return this.#nats.url;
  }

  gateway() {
    return usage(this.#gateway.pid);
  }

  /** What the gateway holds once garbage is collected, in MiB. */
  async heap() {
    rmSync(this.#heapFile, { force: true });
    this.#gateway.kill('SIGUSR2');
    await until(() => existsSync(this.#heapFile), 'the heap of the gateway');
    return JSON.parse(readFileSync(this.#heapFile, 'utf8'));
  }

  nats() {
    return usage(this.#nats.pid);
  }

  async stop() {
    await ended(this.#gateway, 'SIGTERM');
    await this.#nats?.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The last line that a child printed, as JSON. */
export function answer(child) {
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
    child.once('close', (code) => {
      if (code !== 0) reject(new Error(`${child.spawnargs[1]}: exit code ${code}`));
      else resolve(JSON.parse(text.trim().split('\n').at(-1)));
    });
  });
}

export async function ended(child, signal) {
  if (!child || child.exitCode !== null || child.signalCode !== null) return;
  const closed = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  await closed;
}
