/** One service process: started, watched, started again when it ends on its own. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream, type WriteStream } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { delay, SpindleError } from '@spindle/kit';

const restartMs = { first: 250, longest: 10_000 };
/** A process that lived this long was well: the next restart is quick again. */
const settledMs = 30_000;
/** A service that was asked to end finishes or checkpoints its work first. */
const stopMs = 15_000;

export interface ChildOptions {
  name: string;
  main: string;
  environment: NodeJS.ProcessEnv;
  portFile: string;
  logFile: string;
  /** Every line the process writes. */
  onLine: (name: string, line: string) => void;
  onRestart: (name: string, reason: string) => void;
  onStart: () => void;
  signal: AbortSignal;
}

export class ServiceChild {
  readonly name: string;
  /** Ports the service bound, as it wrote them. */
  ports: number[] = [];
  #process: ChildProcess | null = null;
  #stopping = false;
  #ended: Promise<void> = Promise.resolve();
  #lastLine = '';
  readonly #options: ChildOptions;
  #log: WriteStream | undefined;

  constructor(options: ChildOptions) {
    this.name = options.name;
    this.#options = options;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** Resolves when the service has written its ports; rejects when it ends before. */
  async start(): Promise<void> {
    await rm(this.#options.portFile, { force: true });
    const exits: string[] = [];
    this.#spawn((reason) => exits.push(reason));
    while (this.ports.length === 0) {
      if (exits[0] !== undefined)
        throw new SpindleError(
          'FAILED_PRECONDITION',
          `${this.name} did not start (${exits[0]}): ${this.#lastLine || 'it wrote nothing'}`,
        );
      this.ports = await readPorts(this.#options.portFile);
      if (this.ports.length === 0) await delay(25, this.#options.signal);
    }
    void this.#watch();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#process;
    if (child && child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
      await this.#ended;
      clearTimeout(timer);
    }
    this.#log?.end();
  }

  #spawn(onExit: (reason: string) => void): void {
    const { main, environment, signal } = this.#options;
    if (signal.aborted) return;
    const child = spawn(process.execPath, [main], {
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = child;
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        this.#lastLine = line;
        this.#writeLog(line);
        // What a start that fails says last is told with its failure.
        if (this.ports.length > 0 || line.startsWith('{')) this.#options.onLine(this.name, line);
      });
    }
    this.#ended = new Promise((resolve) => {
      child.once('error', (error) => {
        onExit(error.message);
        resolve();
      });
      child.once('close', (code, killed) => {
        onExit(killed ? `killed by ${killed}` : `exit code ${code ?? '?'}`);
        resolve();
      });
    });
    this.#options.onStart();
  }

  /**
   * A full disk must not take the mesh down with it: lines are lost, and the file is opened again
   * for the next one.
   */
  #writeLog(line: string): void {
    if (this.#log === undefined) {
      const log = createWriteStream(this.#options.logFile, { flags: 'a' });
      log.on('error', () => {
        if (this.#log === log) this.#log = undefined;
      });
      this.#log = log;
    }
    this.#log.write(`${line}\n`);
  }

  async #watch(): Promise<void> {
    let wait = restartMs.first;
    let reason = '';
    let startedAt = Date.now();
    this.#process?.once(
      'close',
      (code, killed) => (reason = killed ? `killed by ${killed}` : `exit code ${code ?? '?'}`),
    );
    for (;;) {
      await this.#ended;
      if (this.#stopping || this.#options.signal.aborted) return;
      if (Date.now() - startedAt > settledMs) wait = restartMs.first;
      this.#options.onRestart(this.name, reason);
      await delay(wait, this.#options.signal).catch(() => undefined);
      wait = Math.min(wait * 2, restartMs.longest);
      if (this.#stopping) return;
      startedAt = Date.now();
      this.#spawn((text) => (reason = text));
    }
  }
}

async function readPorts(file: string): Promise<number[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text
    .split('\n')
    .map((line) => Number(line.trim()))
    .filter((port) => Number.isInteger(port) && port > 0);
}
