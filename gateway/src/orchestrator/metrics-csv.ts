/** artifacts/<run>/metrics.csv: the lines of metrics.jsonl as a table, for spreadsheets. */
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '@spindle/kit';
import { stepNumbers } from '@spindle/proto';
import { modelName, parseModel } from '../domain/model.js';
import type { MetricsLine } from './metrics-log.js';

export const metricsCsv = 'metrics.csv';

const header = ['model', ...stepNumbers.map(({ name }) => name)].join(',');

/** Empty where there is no finite number. */
export function csvLine(line: MetricsLine): string {
  const numbers = stepNumbers.map(({ key }) => (Number.isFinite(line[key]) ? line[key] : ''));
  return `${[line.model, ...numbers].join(',')}\n`;
}

/** The lines of a run's table that can be read; none without a table. */
export async function readMetricsCsv(directory: string): Promise<MetricsLine[]> {
  const text = await readFile(join(directory, metricsCsv), 'utf8').catch(() => '');
  const [names = '', ...lines] = text.split('\n').slice(0, -1);
  // Of a version with other columns.
  if (names !== header) return [];
  return lines.flatMap((line) => {
    const [model = '', ...numbers] = line.split(',');
    const entries = stepNumbers.map(({ key }, i) => [key, Number(numbers[i] || NaN)] as const);
    const read = { model, ...Object.fromEntries(entries) } as MetricsLine;
    const whole = numbers.length === stepNumbers.length && Number.isInteger(read.step);
    return whole && isModelName(model) ? [read] : [];
  });
}

function isModelName(name: string): boolean {
  try {
    return modelName(parseModel(name)) === name;
  } catch {
    return false;
  }
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
