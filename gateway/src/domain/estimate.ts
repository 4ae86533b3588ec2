/** From probes of a few steps to the memory and the time of a whole run. */

export interface Probes {
  /** Bytes at the peak of each process, and seconds of its pieces of work. */
  trainer: {
    peakBytes: number;
    microBatchSeconds: number;
    applySeconds: number;
    loadSeconds: number;
    exportSeconds: number;
    checkpointSeconds: number;
  };
  sampler: {
    peakBytes: number;
    encodeSeconds: number;
    callSeconds: number;
    decodeSeconds: number;
    unetLoadSeconds: number;
    pipelineLoadSeconds: number;
    /** Calls of the U-Net per image, of training and of evaluation. */
    drawCalls: number;
    evaluateCalls: number;
  };
}

export interface Work {
  /** Images of the data set. */
  rows: number;
  /** Drawn for training, and for evaluation, over the whole run. */
  drawn: number;
  evaluated: number;
  /** U-Nets that images are drawn with. */
  models: number;
  trainings: readonly {
    steps: number;
    microBatches: number;
    /** Of the probed micro-batch's cost. */
    cost: number;
    checkpoints: number;
  }[];
}

export interface Estimate {
  trainerBytes: number;
  samplerBytes: number;
  encodeSeconds: number;
  sampleSeconds: number;
  evaluateSeconds: number;
  trainSeconds: number;
  totalSeconds: number;
}

/**
 * Without overlap: on one device training waits for the samplers. Loading and saving count; judges'
 * time does not.
 */
export function estimate({ trainer, sampler }: Probes, work: Work): Estimate {
  const encodeSeconds = sampler.pipelineLoadSeconds + work.rows * sampler.encodeSeconds;
  const sampleSeconds =
    work.models * sampler.unetLoadSeconds + work.drawn * sampler.drawCalls * sampler.callSeconds;
  const evaluateSeconds =
    work.evaluated * (sampler.evaluateCalls * sampler.callSeconds + sampler.decodeSeconds);
  const trainSeconds = work.trainings.reduce(
    (sum, { steps, microBatches, cost, checkpoints }) =>
      sum +
      trainer.loadSeconds +
      steps * (microBatches * cost * trainer.microBatchSeconds + trainer.applySeconds) +
      checkpoints * trainer.checkpointSeconds +
      trainer.exportSeconds,
    0,
  );
  return {
    trainerBytes: trainer.peakBytes,
    samplerBytes: sampler.peakBytes,
    encodeSeconds,
    sampleSeconds,
    evaluateSeconds,
    trainSeconds,
    totalSeconds: encodeSeconds + sampleSeconds + evaluateSeconds + trainSeconds,
  };
}

/**
 * Of a pair, in forwards of one image: forward and backward (three forwards) and the opponent's
 * forward for each of its two images and timesteps. All timesteps but one are measured before.
 */
export function pairCost(timesteps: number): number {
  return 2 * (4 * timesteps + timesteps - 1);
}

/** SFT looks at half the images, and has no opponent. */
export const sftCost = 3;
