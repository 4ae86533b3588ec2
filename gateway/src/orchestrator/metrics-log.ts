/** artifacts/<run>/metrics.jsonl: one line per optimiser step, for plots here and for any other tool. */
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TrainStepMetrics } from '../domain/state.js';

export type MetricsLine = { model: string } & TrainStepMetrics;

export class MetricsLog {
  readonly #file: string;
  /** Per model, by step. Training that resumes from a checkpoint repeats steps with the same values. */
  readonly #lines = new Map<string, Map<number, MetricsLine>>();
  #pending = '';
  #writing: Promise<void> = Promise.resolve();

  private constructor(file: string) {
    this.#file = file;
  }

  static async open(directory: string): Promise<MetricsLog> {
    const log = new MetricsLog(join(directory, 'metrics.jsonl'));
    const text = await readFile(log.#file, 'utf8').catch(() => '');
    for (const line of text.split('\n')) {
      try {
        if (line !== '') log.#remember(JSON.parse(line) as MetricsLine);
      } catch {
        // The last line may be torn by a crash; training repeats that step or it is lost to the plot only.
      }
    }
    if (text !== '' && !text.endsWith('\n')) log.#pending = '\n';
    return log;
  }

  add(model: string, metrics: TrainStepMetrics): void {
    const line = { model, ...metrics };
    if (this.#lines.get(model)?.has(metrics.step)) return;
    this.#remember(line);
    this.#pending += `${JSON.stringify(line)}\n`;
    this.#writing = this.#writing.then(async () => {
      const text = this.#pending;
      this.#pending = '';
      if (text === '') return;
      await appendFile(this.#file, text).catch(() => {
        // A full disk must not cost the run: the lines go with the next ones, after what may be a torn one.
        this.#pending = `\n${text}${this.#pending}`;
      });
    });
  }

  flush(): Promise<void> {
    return this.#writing;
  }

  curves(): Record<string, MetricsLine[]> {
    return Object.fromEntries([...this.#lines].map(([model, lines]) => [model, [...lines.values()].sort((a, b) => a.step - b.step)]));
  }

  #remember(line: MetricsLine): void {
    const lines = this.#lines.get(line.model) ?? new Map<number, MetricsLine>();
    lines.set(line.step, line);
    this.#lines.set(line.model, lines);
  }
}
