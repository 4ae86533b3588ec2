import { SpindleError } from '@spindle/kit';
import type { UnetRef } from '@spindle/proto';
import type { ArtifactStore } from './store/store.js';

/** Files of a U-Net as the engine takes them. */
export interface UnetSource {
  /** Text of config.json. */
  config: string;
  weights: string[];
  /** Names the model in messages. */
  label: string;
  adapters?: { path: string; scale: number }[];
}

/**
 * Where a U-Net's files lie on this machine: blobs of the store (fetched and verified), or a
 * folder, which `readFolder` knows, with an adapter of the store on top where the reference names
 * one.
 */
export async function unetSource<Folder extends object>(
  ref: UnetRef,
  store: Pick<ArtifactStore, 'get' | 'localPath'>,
  readFolder: (path: string) => Folder,
): Promise<UnetSource | Folder | (Folder & Required<Pick<UnetSource, 'adapters'>>)> {
  if (ref.config !== undefined && ref.weights !== undefined) {
    return {
      config: (await store.get(ref.config)).toString('utf8'),
      weights: [await store.localPath(ref.weights)],
      label: `U-Net ${ref.name} (${ref.weights.digest})`,
    };
  }
  if (ref.path === '') {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `U-Net ${ref.name}: expected a path or config and weights, got neither`,
    );
  }
  const folder = readFolder(ref.path);
  if (ref.adapter === undefined) return folder;
  return { ...folder, adapters: [{ path: await store.localPath(ref.adapter), scale: 1 }] };
}
