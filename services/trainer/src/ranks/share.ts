/** What one rank computes of a step's batch. */
import { nowMs } from '@spindle/kit';
import type { PhaseDto, TrainBatchDto } from '@spindle/native';
import type { Dataset } from '../dataset.js';
import { byShape, DataOrder, microBatches, type Draw, type MicroBatch } from '../domain/draws.js';
import type { StepErrors } from '../domain/metrics.js';
import type { TrainingSettings } from '../domain/settings.js';
import type { TrainingSession } from '../engine.js';

export class Share {
  readonly #order: DataOrder;
  /** A step's first micro-batch, read while the step before was at work. */
  #ahead: { step: number; batch: TrainBatchDto } | undefined;

  constructor(
    readonly session: TrainingSession,
    readonly dataset: Dataset,
    readonly settings: TrainingSettings,
    readonly rank = 0,
    readonly worldSize = 1,
  ) {
    this.#order = new DataOrder(
      { seed: settings.seed, iteration: settings.iteration },
      dataset.size,
      settings.batchSize,
    );
  }

  /**
   * `beta` 0 has none. Phases start at the call. Micro-batches whose errors come with apply() have
   * no part.
   */
  async gradients(
    step: number,
    beta: number,
    signal: AbortSignal,
  ): Promise<{ parts: StepErrors[]; phases: PhaseDto[] }> {
    const { session, dataset } = this;
    const started = nowMs();
    const { draws, micros } = this.#cut(step);
    const parts: StepErrors[] = [];
    const phases: PhaseDto[] = [];
    let ahead = this.#ahead?.step === step ? this.#ahead.batch : undefined;
    this.#ahead = undefined;
    for (const micro of micros) {
      const batch = {
        ...(ahead ?? (await dataset.batch(step, draws, micro))),
        beta: beta === 0 ? null : beta,
      };
      ahead = undefined;
      const began = nowMs();
      const result = await session.accumulate(batch, signal);
      for (const phase of result.phases)
        phases.push({ ...phase, startMs: phase.startMs + began - started });
      if (result.errors !== null) parts.push(result.errors);
    }
    return { parts, phases };
  }

  /**
   * Reads a step's first micro-batch, and brings it to the device, while that is at the step
   * before. What cannot be read is tried again, and reported, when its turn comes.
   */
  async stage(step: number): Promise<void> {
    if (step >= this.settings.steps) return;
    const { draws, micros } = this.#cut(step);
    const first = micros[0];
    if (first === undefined) return;
    const batch = await this.dataset.batch(step, draws, first).catch(() => undefined);
    this.#ahead = batch && { step, batch };
    if (batch !== undefined) await this.session.prefetch(batch);
  }

  #cut(step: number): { draws: readonly Draw[]; micros: MicroBatch[] } {
    const { draws, shapes } = byShape(this.#order.batch(step), (draw) =>
      this.dataset.shapeOf(draw),
    );
    return {
      draws,
      micros: microBatches(shapes, this.settings.gradientAccumulation, this.rank, this.worldSize),
    };
  }
}
