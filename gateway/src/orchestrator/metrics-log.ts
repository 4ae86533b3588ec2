/**
 * artifacts/<run>/metrics.jsonl: one line per optimiser step, for plots here and for any other
 * tool; beside it the same as metrics.csv and as TensorBoard's events.
 */
import { createHash } from 'node:crypto';
import { appendFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '@spindle/kit';
import { stepNumbers, type StepNumbers } from '@spindle/proto';
import { parseModel } from '../domain/model.js';
import { TensorboardLog } from '../tensorboard/run-log.js';
import { MetricsCsv, metricsCsv, readMetricsCsv } from './metrics-csv.js';

export type MetricsLine = { model: string } & StepNumbers;

const known: ReadonlySet<string> = new Set(stepNumbers.map(({ key }) => key));

export class MetricsLog {
  readonly tensorboard: TensorboardLog;
  readonly #directory: string;
  readonly #file: string;
  /**
   * Per model, by step. Training that resumes from a checkpoint repeats steps with the same values.
   */
  readonly #lines = new Map<string, Map<number, MetricsLine>>();
  #pending = '';
  #writing: Promise<void> = Promise.resolve();
  /** Opened by the first new line. */
  #csv: MetricsCsv | undefined;
  /**
   * By model: at first all lines, since what the other files have is known only once they are
   * opened.
   */
  readonly #unmirrored = new Map<string, MetricsLine[]>();

  private constructor(directory: string, createdAt: number) {
    this.#directory = directory;
    this.#file = join(directory, 'metrics.jsonl');
    this.tensorboard = new TensorboardLog(directory, createdAt);
  }

  /** `createdAt` of the run, in milliseconds. */
  static async open(directory: string, createdAt: number): Promise<MetricsLog> {
    const log = new MetricsLog(directory, createdAt);
    const text = await readFile(log.#file, 'utf8').catch(() => '');
    for (const line of text.split('\n')) {
      try {
        const read: unknown = line === '' ? null : JSON.parse(line);
        const metrics = checked(read);
        // Throws for what is no model's name.
        if (isMetricsLine(metrics) && parseModel(metrics.model)) log.#remember(metrics);
      } catch {
        // Torn by a crash, or damaged: training repeats that step or it is lost to the plot only.
      }
    }
    if (text !== '' && !text.endsWith('\n')) log.#pending = '\n';
    // What is damaged or gone there is in the table too.
    for (const line of await readMetricsCsv(directory))
      if (!log.#lines.get(line.model)?.has(line.step)) log.#remember(line);
    return log;
  }

  add(model: string, metrics: StepNumbers): void {
    const line = { model, ...metrics };
    if (this.#lines.get(model)?.has(metrics.step)) return;
    this.#remember(line);
    this.#pending += textOf(line);
    this.#writing = this.#writing.then(async () => {
      const text = this.#pending;
      this.#pending = '';
      if (text === '') return;
      try {
        await appendFile(this.#file, text);
        await this.#mirror(model);
      } catch {
        // A full disk must not cost the run: the lines go with the next ones, after what may be a
        // torn one.
        this.#pending = `\n${text}${this.#pending}`;
      }
    });
  }

  /** Steps after this one come again with other numbers. */
  rewind(model: string, step: number): void {
    const lines = this.#lines.get(model);
    for (const late of [...(lines?.keys() ?? [])]) if (late > step) lines?.delete(late);
    // Lines and table are written anew, so that who opens them next knows no other numbers.
    // TensorBoard's files are only ever added to.
    this.#writing = this.#writing.then(async () => {
      // First: what is missing in the lines is taken from the table.
      await rm(join(this.#directory, metricsCsv), { force: true }).catch(() => undefined);
      await this.#rewrite().catch(() => undefined);
      this.#csv = undefined;
      await this.tensorboard.rewind(model, step).catch(() => undefined);
      for (const [name, all] of this.#lines) this.#unmirrored.set(name, [...all.values()]);
      for (const name of this.#lines.keys()) await this.#mirror(name);
    });
  }

  async #rewrite(): Promise<void> {
    await writeFileAtomic(this.#file, this.#text());
    this.#pending = '';
  }

  #text(): string {
    return Object.values(this.curves())
      .flatMap((lines) => lines.map(textOf))
      .join('');
  }

  async flush(): Promise<void> {
    await this.#writing;
    await this.tensorboard.flush();
  }

  /**
   * Everything known of `model` that is not in the other files yet; they may lag behind, and are
   * made whole again at the next opening.
   */
  async #mirror(model: string): Promise<void> {
    const lines = this.#unmirrored.get(model) ?? [];
    this.#unmirrored.delete(model);
    try {
      this.#csv ??= await MetricsCsv.open(this.#directory);
      await this.#csv.add(lines);
      await this.tensorboard.steps(model, lines);
    } catch {
      this.#csv = undefined;
      this.#unmirrored.set(model, [...lines, ...(this.#unmirrored.get(model) ?? [])]);
    }
  }

  /**
   * Writes metrics.jsonl anew where lines of it are damaged or gone. Says which numbers are lost
   * for good, of so many steps per model.
   */
  async restore(steps: ReadonlyMap<string, number>): Promise<string[]> {
    this.#writing = this.#writing.then(async () => {
      const text = await readFile(this.#file, 'utf8').catch(() => '');
      if (text !== this.#text()) await this.#rewrite().catch(() => undefined);
    });
    await this.#writing;
    return [...steps].flatMap(([model, taken]) => {
      const lost = taken - (this.#lines.get(model)?.size ?? 0);
      return lost > 0
        ? [
            `metrics.jsonl: the numbers of ${lost} of ${taken} steps of ${model} are lost; the ` +
              'plots lack them',
          ]
        : [];
    });
  }

  curves(): Record<string, MetricsLine[]> {
    return Object.fromEntries(
      [...this.#lines].map(([model, lines]) => [
        model,
        [...lines.values()].sort((a, b) => a.step - b.step),
      ]),
    );
  }

  #remember(line: MetricsLine): void {
    const lines = this.#lines.get(line.model) ?? new Map<number, MetricsLine>();
    lines.set(line.step, line);
    const unmirrored = this.#unmirrored.get(line.model);
    if (unmirrored) unmirrored.push(line);
    else this.#unmirrored.set(line.model, [line]);
    this.#lines.set(line.model, lines);
  }
}

/** A line that ends with a digest of what stands before it: a wrong number would look like one. */
function textOf(line: MetricsLine): string {
  return `${JSON.stringify({ ...line, check: checkOf(line) })}\n`;
}

/** Without its check; null where that is another one. Lines of older versions have none. */
function checked(read: unknown): unknown {
  if (typeof read !== 'object' || read === null || !('check' in read)) return read;
  const { check, ...line } = read;
  return check === checkOf(line) ? line : null;
}

function checkOf(line: object): string {
  return createHash('sha256').update(JSON.stringify(line)).digest('hex').slice(0, 8);
}

/** Numbers that an older version did not write may be absent; JSON has null for what is none. */
function isMetricsLine(value: unknown): value is MetricsLine {
  if (typeof value !== 'object' || value === null) return false;
  const line = value as Record<string, unknown>;
  const keys = Object.keys(line).filter((key) => key !== 'model');
  return (
    typeof line['model'] === 'string' &&
    Number.isInteger(line['step']) &&
    keys.every((key) => known.has(key) && (line[key] === null || typeof line[key] === 'number'))
  );
}
