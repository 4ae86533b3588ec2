/**
 * One rank's part of a training: its session of the engine, its data, and its local batch of every
 * step.
 */
import { delay, nowMs } from '@spindle/kit';
import type { PhaseDto, TrainBatchDto, TrainStepResultDto } from '@spindle/native';
import type { Dataset } from '../dataset.js';
import type { IncomingImages } from '../incoming-images.js';
import type { TrainingData } from '../setup.js';
import {
  byShape,
  DataOrder,
  microBatches,
  standIn,
  type Draw,
  type MicroBatch,
} from '../domain/draws.js';
import type { StepErrors } from '../domain/metrics.js';
import type { TrainingSettings } from '../domain/settings.js';
import type { TrainingSession } from '../engine.js';

/** How often a rank looks for images that are not drawn. */
const lookMs = 200;

export class RankTraining {
  readonly dataset: Dataset;
  /** Null where all images are there. */
  readonly incoming: IncomingImages | null;
  readonly #order: DataOrder;
  /** The first micro-batch of a step, read while the engine was at the step before. */
  #prefetched: { step: number; batch: TrainBatchDto } | undefined;

  constructor(
    readonly session: TrainingSession,
    data: TrainingData,
    readonly settings: TrainingSettings,
    readonly place: { rank: number; worldSize: number } = { rank: 0, worldSize: 1 },
  ) {
    const { dataset, incoming } = data;
    this.dataset = dataset;
    this.incoming = incoming;
    this.#order = new DataOrder(
      { seed: settings.seed, iteration: settings.iteration },
      dataset.size,
      settings.batchSize,
    );
  }

  /** Whether a step's images are there. */
  async isReady(step: number): Promise<boolean> {
    return this.incoming === null || this.incoming.isReady(this.#order.batch(step));
  }

  /** Resolves when a step's images are there, or after a moment: then with false. */
  async ready(step: number, signal: AbortSignal): Promise<boolean> {
    if (await this.isReady(step)) return true;
    await delay(lookMs, signal);
    return false;
  }

  /**
   * Accumulates the gradients of the local batch. `beta` is 0 for an objective that has none. The
   * phases' times count from this call. `parts` has the errors of micro-batches; where a device
   * tells them at the end of a step, they come with apply() instead.
   */
  async gradients(
    step: number,
    beta: number,
    signal: AbortSignal,
  ): Promise<{ parts: StepErrors[]; phases: PhaseDto[] }> {
    const { session, dataset } = this;
    // Rank 0 asks when it has them, and so the store.
    while (!(await this.ready(step, signal)));
    const started = nowMs();
    const { draws, micros } = this.#localBatch(step);
    const parts: StepErrors[] = [];
    const phases: PhaseDto[] = [];
    let prefetched = this.#prefetched?.step === step ? this.#prefetched.batch : undefined;
    this.#prefetched = undefined;
    for (const micro of micros) {
      const batch = {
        ...(prefetched ?? (await dataset.batch(step, draws, micro))),
        beta: beta === 0 ? null : beta,
      };
      prefetched = undefined;
      const began = nowMs();
      const result = await session.accumulate(batch, signal);
      for (const phase of result.phases) {
        phases.push({ ...phase, startMs: phase.startMs + began - started });
      }
      if (result.errors !== null) parts.push(result.errors);
    }
    return { parts, phases };
  }

  /** Takes the optimiser's step, and before that prefetches for the next one. */
  async apply(
    step: number,
    learningRateScale: number,
    signal: AbortSignal,
  ): Promise<TrainStepResultDto> {
    await this.prefetch(step + 1);
    return this.session.apply(step, learningRateScale, signal);
  }

  /**
   * Reads a step's first micro-batch and brings it to the device, while the device is at the step
   * before. What cannot be read now is read again, and its error reported, by gradients().
   */
  async prefetch(step: number): Promise<void> {
    if (step >= this.settings.lastStep) return;
    if (!(await this.isReady(step).catch(() => false))) return;
    const { draws, micros } = this.#localBatch(step);
    const first = micros[0];
    if (first === undefined) return;
    const batch = await this.dataset.batch(step, draws, first).catch(() => undefined);
    this.#prefetched = batch && { step, batch };
    if (batch !== undefined) await this.session.prefetch(batch);
  }

  async close(): Promise<void> {
    this.session.release();
    await this.dataset.close();
  }

  /** A step's whole batch, and the micro-batches of it that this rank computes. */
  #localBatch(step: number): { draws: readonly Draw[]; micros: MicroBatch[] } {
    const { dataset } = this;
    const has = (element: number): boolean => dataset.has(element);
    const read = this.#order
      .batch(step)
      .map((draw) =>
        has(draw.element) ? draw : standIn(draw, this.#order, this.settings.lastStep, has),
      );
    const { draws, shapes } = byShape(read, (draw) => dataset.shapeOf(draw));
    const { rank, worldSize } = this.place;
    return {
      draws,
      micros: microBatches(shapes, this.settings.gradientAccumulation, rank, worldSize),
    };
  }
}
