/** artifacts/<run>/metrics.csv: the lines of metrics.jsonl as a table, for spreadsheets. */
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '@spindle/kit';
import { stepNumbers } from '@spindle/proto';
import type { MetricsLine } from './metrics-log.js';

export const metricsCsv = 'metrics.csv';

const header = ['model', ...stepNumbers.map(({ name }) => name)].join(',');

/** Empty where there is no finite number. */
export function csvLine(line: MetricsLine): string {
  const numbers = stepNumbers.map(({ key }) => (Number.isFinite(line[key]) ? line[key] : ''));
  return `${[line.model, ...numbers].join(',')}\n`;
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
