/** artifacts/<run>/metrics.csv: the lines of metrics.jsonl as a table, for spreadsheets. */
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '@spindle/kit';
import type { MetricsLine } from './metrics-log.js';

export const metricsCsv = 'metrics.csv';

const columns = [
  'model',
  'step',
  'loss',
  'errorReal',
  'errorGenerated',
  'opponentErrorReal',
  'opponentErrorGenerated',
  'implicitAccuracy',
  'loserScale',
  'gradNorm',
  'learningRate',
  'beta',
  'seconds',
] as const satisfies readonly (keyof MetricsLine)[];

const header = columns
  .map((name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`))
  .join(',');

/** Empty where there is no finite number. */
export function csvLine(line: MetricsLine): string {
  return `${columns.map((name) => (typeof line[name] === 'number' && !Number.isFinite(line[name]) ? '' : (line[name] ?? ''))).join(',')}\n`;
}

export class MetricsCsv {
  readonly #file: string;
  /** "model/step" of every line. */
  readonly #written: Set<string>;

  private constructor(file: string, written: Set<string>) {
    this.#file = file;
    this.#written = written;
  }

  /** A last line that a crash tore off is dropped. */
  static async open(directory: string): Promise<MetricsCsv> {
    const file = join(directory, metricsCsv);
    const text = await readFile(file, 'utf8').catch(() => '');
    const lines = text.split('\n').slice(1, -1);
    if (!text.endsWith('\n')) await writeFileAtomic(file, [header, ...lines, ''].join('\n'));
    return new MetricsCsv(file, new Set(lines.map((line) => line.split(',', 2).join('/'))));
  }

  /** Those that are not there yet. */
  async add(lines: readonly MetricsLine[]): Promise<void> {
    const fresh = lines.filter(({ model, step }) => !this.#written.has(`${model}/${step}`));
    if (fresh.length === 0) return;
    await appendFile(this.#file, fresh.map(csvLine).join(''));
    for (const { model, step } of fresh) this.#written.add(`${model}/${step}`);
  }
}
