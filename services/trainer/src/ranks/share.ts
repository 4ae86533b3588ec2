/** What one rank computes of a step's batch. */
import { nowMs } from '@spindle/kit';
import type { PhaseDto } from '@spindle/native';
import type { Dataset } from '../dataset.js';
import { byShape, DataOrder, microBatches } from '../domain/draws.js';
import type { StepErrors } from '../domain/metrics.js';
import type { TrainingSettings } from '../domain/settings.js';
import type { TrainingSession } from '../engine.js';

export class Share {
  readonly #order: DataOrder;

  constructor(
    readonly session: TrainingSession,
    readonly dataset: Dataset,
    readonly settings: TrainingSettings,
    readonly rank = 0,
    readonly worldSize = 1,
  ) {
    this.#order = new DataOrder({ seed: settings.seed, iteration: settings.iteration }, dataset.size, settings.batchSize);
  }

  /** `beta` 0 has none. Phases start at the call. */
  async gradients(step: number, beta: number, signal: AbortSignal): Promise<{ parts: StepErrors[]; phases: PhaseDto[] }> {
    const { settings, session, dataset } = this;
    const started = nowMs();
    const { draws, shapes } = byShape(this.#order.batch(step), (draw) => dataset.shapeOf(draw));
    const parts: StepErrors[] = [];
    const phases: PhaseDto[] = [];
    for (const micro of microBatches(shapes, settings.gradientAccumulation, this.rank, this.worldSize)) {
      const batch = { ...(await dataset.batch(step, draws, micro)), beta: beta === 0 ? null : beta };
      const began = nowMs();
      const part = await session.accumulate(batch, signal);
      for (const phase of part.phases) phases.push({ ...phase, startMs: phase.startMs + began - started });
      parts.push(part);
    }
    return { parts, phases };
  }
}
