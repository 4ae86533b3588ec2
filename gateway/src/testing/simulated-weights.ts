/** Weights in the simulation: a value in the place of a blob. */
import type { Model } from '../domain/model.js';
import { stageName } from '../domain/stage.js';
import type { Snapshot } from '../domain/state.js';

/** Key of what a training leaves after a step. */
export function snapshotOf(model: Model, step: number): string {
  return `${stageName({ kind: 'train', model })}@${step}`;
}

/** Weights of that value. */
export function asSnapshot(value: string): Snapshot {
  const blob = { digest: value, bytes: 1, mediaType: '' };
  return { unet: { config: blob, weights: blob } };
}
