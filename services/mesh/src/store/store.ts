import type { ArtifactRef } from '@spindle/proto';

/**
 * Large, immutable data named by its content, and the results of jobs named by key: in a local
 * folder, or in an object store with a local folder as its cache.
 */
export interface ArtifactStore {
  /** Is its truth in an object store? The local folder's free space is no limit of it then. */
  readonly remote: boolean;
  put(data: Uint8Array, mediaType: string): Promise<ArtifactRef>;
  /** With `move` the source file is consumed. */
  putFile(path: string, mediaType: string, options?: { move?: boolean }): Promise<ArtifactRef>;
  /**
   * Verified; DATA_LOSS names the digest, and the bad blob is set aside so that putting it again
   * heals it.
   */
  get(ref: ArtifactRef): Promise<Buffer>;
  /** A readable file of the blob, verified once per process and file identity. */
  localPath(ref: ArtifactRef): Promise<string>;
  has(ref: ArtifactRef): Promise<boolean>;
  /** Deletes a blob that nothing names any more. Caches of other machines keep theirs. */
  deleteBlob(ref: ArtifactRef): Promise<void>;
  /** The first writer wins; durable when it returns. */
  commitResult(key: string, json: string): Promise<'committed' | 'exists'>;
  /**
   * Null where there is none, and where what is there is damaged: that is set aside, so that the
   * work is done again.
   */
  getResult(key: string): Promise<string | null>;
  /**
   * Keys equal to the prefix or below it ("r1/encode" gives "r1/encode/0003", never
   * "r1/encode-x/0000"), sorted.
   */
  listResults(prefix: string): Promise<string[]>;
  /** Deletes what listResults lists. */
  deleteResults(prefix: string): Promise<void>;
  /** A folder of its own for a key, which survives restarts of the process on this machine. */
  checkpointDir(key: string): Promise<string>;
  /**
   * Where copies of a key's checkpoints outlive the machine; null where the store is its folder.
   */
  checkpointMirror(key: string): CheckpointMirror | null;
  /**
   * Deletes the checkpoints of all keys equal to the prefix or below it, here and in the object
   * store.
   */
  deleteCheckpoints(prefix: string): Promise<void>;
  /** A fresh folder on the store's file system; the caller removes it, or a later start does. */
  tempDir(): Promise<string>;
}

/** Files of one key, by name. */
export interface CheckpointMirror {
  list(): Promise<string[]>;
  upload(name: string, path: string): Promise<void>;
  write(name: string, data: Uint8Array): Promise<void>;
  /** Into a file that is not there yet; false when there is none of the name. */
  download(name: string, path: string): Promise<boolean>;
  remove(name: string): Promise<void>;
}
