/**
 * Judging a training while it goes on: after every so many steps, images for a few of the prompts
 * that models are chosen by, drawn with the same noise each time. Which step's weights a training
 * leaves follows from the scores alone.
 */
import type { Model } from './model.js';
import { forIteration } from './per-iteration.js';

/** How the trainings of a kind are judged. */
export interface Judging {
  /** Steps, of all iterations or of each (the last one repeats); 0: not judged. */
  every: number | number[];
  /** The first so many of the prompts that models are chosen by. */
  prompts: number;
  keep: 'last' | 'best';
}

/** By the kind of the model that comes out. */
export type JudgedTrainings = Partial<Record<'sft' | 'dpo' | 'spin', Judging>>;

/** Scores of one step's images. */
export interface Judgement {
  mean: number;
  standardError: number;
  n: number;
}

/** How a model's training is judged; undefined where it is not. */
export function judgingOf(
  { judging }: { judging?: JudgedTrainings },
  model: Model,
): (Judging & { every: number }) | undefined {
  switch (model.kind) {
    case 'base':
    case 'ema':
      return undefined;
    case 'sft':
    case 'dpo':
      return withEvery(judging?.[model.kind], 1);
    case 'spin':
      return withEvery(judging?.spin, model.iteration);
  }
}

function withEvery(judging: Judging | undefined, k: number) {
  const every = judging ? forIteration(judging.every, k) : 0;
  return judging && every > 0 ? { ...judging, every } : undefined;
}

/** Every n-th step, and the last one. */
export function stepsJudged(every: number, steps: number): number[] {
  const judged = Array.from({ length: Math.floor(steps / every) }, (_, i) => (i + 1) * every);
  return steps % every === 0 ? judged : [...judged, steps];
}

/** The judged step with the highest mean, of equal ones the earliest; undefined before any. */
export function bestStep(judged: Readonly<Record<number, Judgement>>): number | undefined {
  let best: { step: number; mean: number } | undefined;
  const steps = Object.keys(judged).map(Number);
  for (const step of steps.sort((a, b) => a - b)) {
    const mean = judged[step]?.mean ?? Number.NaN;
    if (Number.isFinite(mean) && (best === undefined || mean > best.mean)) best = { step, mean };
  }
  return best?.step;
}
