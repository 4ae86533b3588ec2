/**
 * Key of what a training left after a step, as a result below the training's own: it goes with
 * that. No job has such a key.
 */
export function snapshotKey(trainKey: string, step: number): string {
  return `${trainKey}/step-${String(step).padStart(8, '0')}`;
}
