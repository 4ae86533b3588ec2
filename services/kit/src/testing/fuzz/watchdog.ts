/**
 * Ends a process whose main thread is stuck, and keeps the input that it is stuck with: code that
 * never comes back cannot be timed by itself.
 */
import { Worker } from 'node:worker_threads';
import { limits } from './target.js';

/** Room for hostile inputs. */
const mostBytes = 64 << 20;

const code = `
const { workerData: { count, input, silentMs, file } } = require('node:worker_threads');
const { writeFileSync, writeSync } = require('node:fs');
let last = -1;
let since = Date.now();
setInterval(() => {
  const now = Atomics.load(count, 0);
  if (now !== last) { last = now; since = Date.now(); return; }
  if (now % 2 === 0 || Date.now() - since < silentMs) return;
  writeFileSync(file, input.subarray(0, Atomics.load(count, 1)));
  writeSync(2, 'an input took more than ' + silentMs / 1000 + ' s: ' + file + '\\n');
  process.kill(process.pid, 'SIGKILL');
}, 500);
`;

export class Watchdog {
  readonly #count = new Int32Array(new SharedArrayBuffer(8));
  readonly #input = new Uint8Array(new SharedArrayBuffer(mostBytes));
  readonly #worker: Worker;

  /** `file`: where an input without end is kept. */
  constructor(file: string) {
    const silentMs = limits.silentSeconds * 1000;
    const workerData = { count: this.#count, input: this.#input, silentMs, file };
    this.#worker = new Worker(code, { eval: true, workerData, execArgv: [] });
    this.#worker.unref();
  }

  begin(input: Uint8Array): void {
    this.#input.set(input.subarray(0, mostBytes));
    Atomics.store(this.#count, 1, Math.min(input.length, mostBytes));
    Atomics.add(this.#count, 0, 1);
  }

  end(): void {
    Atomics.add(this.#count, 0, 1);
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }
}
