/** Stored data that is damaged or gone. */
import { ensureError, type SpindleError } from '@spindle/kit';
import type { ArtifactStore } from '@spindle/mesh';
import type { ArtifactRef } from '@spindle/proto';

export function isLoss({ code }: Pick<SpindleError, 'code'>): boolean {
  return code === 'DATA_LOSS' || code === 'NOT_FOUND';
}

/** Reading verifies, and sets a bad blob aside. */
export async function isWholeBlob(
  store: Pick<ArtifactStore, 'localPath'>,
  ref: ArtifactRef,
): Promise<boolean> {
  try {
    await store.localPath(ref);
    return true;
  } catch (thrown) {
    if (isLoss(ensureError(thrown))) return false;
    throw thrown;
  }
}
