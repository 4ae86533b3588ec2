/**
 * Hours of a run at a rate that docs/TUTORIAL.md states, for who has no machine to measure on.
 * Which model it is, a U-Net's size and the resolution tell.
 */
import { pairCost, sftCost } from './estimate.js';

interface StatedRate {
  unetParameters: bigint;
  resolution: number;
  /** Pairs of a training of all weights, and guided images of `steps` steps, per second. */
  pairs: number;
  images: number;
  steps: number;
  /** Whose rate it is, and that it is no measurement. */
  of: string;
}

const statedRates: readonly StatedRate[] = [
  {
    unetParameters: 859_520_964n,
    resolution: 512,
    pairs: 60,
    images: 4.8,
    steps: 50,
    of: 'one H200, assumed and not measured (docs/TUTORIAL.md)',
  },
];

/** What a run does, all of its trainings and models together. */
export interface CountedWork {
  /** Pairs that iterations and Diffusion-DPO train on, by the timesteps of each. */
  pairs: { count: number; timesteps: number }[];
  /** Images that the SFT baseline trains on. */
  sftImages: number;
  /** Drawn for training. */
  drawn: number;
  steps: number;
  evaluated: number;
  evaluationSteps: number;
}

export interface StatedHours {
  rate: StatedRate;
  training: number;
  drawing: number;
  evaluation: number;
}

/** Undefined for a model that no rate is stated for. */
export function statedHours(
  model: { unetParameters: bigint; resolution: number },
  work: CountedWork,
): StatedHours | undefined {
  const rate = statedRates.find(
    ({ unetParameters, resolution }) =>
      unetParameters === model.unetParameters && resolution === model.resolution,
  );
  if (!rate) return undefined;
  const hours = (count: number, perSecond: number): number => count / perSecond / 3600;
  const forwards = work.pairs.reduce(
    (sum, { count, timesteps }) => sum + count * pairCost(timesteps),
    work.sftImages * sftCost,
  );
  return {
    rate,
    // In forwards of one image: the rate is that of pairs of one timestep.
    training: hours(forwards / pairCost(1), rate.pairs),
    drawing: hours((work.drawn * work.steps) / rate.steps, rate.images),
    evaluation: hours((work.evaluated * work.evaluationSteps) / rate.steps, rate.images),
  };
}
