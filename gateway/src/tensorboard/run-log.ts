/**
 * artifacts/<run>/tensorboard: one folder per model with its training steps, `evaluation` with
 * scores and images over the iterations (0 is the base), and `evaluation-<baseline>` beside it, so
 * that TensorBoard draws them over each other.
 */
import { join } from 'node:path';
import { isBaseline, iterationOf, modelName, parseModel } from '../domain/model.js';
import type { ModelSummary, TrainStepMetrics } from '../domain/state.js';
import { encodeEvent, encodeRestart, readEvent, versionEvent, type SummaryValue } from './event.js';
import { RecordFile } from './record-file.js';

export interface SampleImage {
  name: string;
  png: Buffer;
}

const scalars: Readonly<Partial<Record<keyof TrainStepMetrics, string>>> = {
  loss: 'train/loss',
  errorReal: 'train/error_real',
  errorGenerated: 'train/error_generated',
  opponentErrorReal: 'train/opponent_error_real',
  opponentErrorGenerated: 'train/opponent_error_generated',
  implicitAccuracy: 'train/implicit_accuracy',
  loserScale: 'train/loser_scale',
  gradNorm: 'train/grad_norm',
  learningRate: 'train/learning_rate',
  beta: 'train/beta',
  seconds: 'train/seconds_per_step',
};

interface Writer {
  file: RecordFile;
  lastStep: number;
}

export class TensorboardLog {
  readonly #directory: string;
  readonly #createdAt: number;
  readonly #writers = new Map<string, Promise<Writer>>();

  /**
   * `createdAt` in milliseconds: it is part of the files' names, so that a run that is taken up
   * again goes on with them.
   */
  constructor(runDirectory: string, createdAt: number) {
    this.#directory = join(runDirectory, 'tensorboard');
    this.#createdAt = createdAt;
  }

  /**
   * Those steps of a model that are not in its file yet: also what a crash or a full disk has kept
   * from it.
   */
  async steps(model: string, steps: readonly TrainStepMetrics[]): Promise<void> {
    const writer = await this.#writer(model);
    for (const metrics of steps)
      if (metrics.step > writer.lastStep) append(writer, metrics.step, trainValues(metrics));
    await writer.file.flush();
  }

  /** Steps after this one come again with other numbers: viewers drop what the file has of them. */
  async rewind(model: string, step: number): Promise<void> {
    const writer = await this.#writer(model);
    if (writer.lastStep <= step) return;
    writer.file.append(encodeRestart(Date.now() / 1000, step + 1));
    writer.lastStep = step;
    await writer.file.flush();
  }

  async evaluation(summary: ModelSummary, images: readonly SampleImage[]): Promise<void> {
    const { metrics } = summary;
    const model = parseModel(summary.model);
    const writer = await this.#writer(
      isBaseline(model) ? `evaluation-${modelName(model)}` : 'evaluation',
    );
    const values: SummaryValue[] = metrics.flatMap(
      ({ metric, mean, median, winRate, differenceLow, differenceHigh }) => [
        { tag: `${metric}/mean`, value: mean },
        { tag: `${metric}/median`, value: median },
        { tag: `${metric}/win_rate`, value: winRate },
        { tag: `${metric}/difference_low`, value: differenceLow },
        { tag: `${metric}/difference_high`, value: differenceHigh },
      ],
    );
    for (const { name, png } of images)
      values.push({ tag: `samples/${name}`, png, ...pngSize(png) });
    append(writer, iterationOf(model), values);
    await writer.file.flush();
  }

  async flush(): Promise<void> {
    for (const writer of this.#writers.values()) await (await writer).file.flush();
  }

  #writer(folder: string): Promise<Writer> {
    const known = this.#writers.get(folder);
    if (known) return known;
    const opened = this.#open(folder);
    this.#writers.set(folder, opened);
    // What could not be read may be readable the next time.
    opened.catch(() => this.#writers.delete(folder));
    return opened;
  }

  async #open(folder: string): Promise<Writer> {
    const seconds = Math.floor(this.#createdAt / 1000);
    const { file, records } = await RecordFile.open(
      join(
        this.#directory,
        folder,
        `events.out.tfevents.${String(seconds).padStart(10, '0')}.spindle`,
      ),
    );
    if (records.length === 0) file.append(versionEvent(this.#createdAt / 1000));
    return { file, lastStep: lastStepOf(records) };
  }
}

function lastStepOf(records: readonly Buffer[]): number {
  return records
    .map(readEvent)
    .reduce(
      (last, { step, restart }) => (restart ? Math.min(last, step - 1) : Math.max(last, step)),
      0,
    );
}

function append(writer: Writer, step: number, values: readonly SummaryValue[]): void {
  writer.file.append(encodeEvent({ wallTime: Date.now() / 1000, step, values }));
  writer.lastStep = Math.max(writer.lastStep, step);
}

function trainValues(metrics: TrainStepMetrics): SummaryValue[] {
  return Object.entries(scalars).flatMap(([name, tag]) => {
    const value = metrics[name as keyof TrainStepMetrics];
    // A value that was not finite is null once it has been through JSON.
    return typeof value === 'number' && Number.isFinite(value) ? { tag, value } : [];
  });
}

/** From the header chunk, which comes first in every PNG. */
function pngSize(png: Buffer): { width: number; height: number } {
  return png.length < 24
    ? { width: 0, height: 0 }
    : { width: png.readUInt32BE(16), height: png.readUInt32BE(20) };
}
