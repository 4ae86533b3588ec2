/** The data manifest and the held-out prompts of the run that jobs come from. */
import { Manifest, parsePromptList } from '@spindle/data';
import type { ArtifactStore } from '@spindle/mesh';
import type { ArtifactRef } from '@spindle/proto';

export class Manifests {
  readonly #store: ArtifactStore;
  /** Where a manifest's lines begin is found once. */
  readonly #manifest = new Last<Manifest>();
  readonly #prompts = new Last<string[]>();

  constructor(store: ArtifactStore) {
    this.#store = store;
  }

  async get(ref: ArtifactRef): Promise<Manifest> {
    // Looks at the file again: it may have been damaged, or gone, since.
    const path = await this.#store.localPath(ref);
    return this.#manifest.get(ref, () => Manifest.open(path));
  }

  prompts(ref: ArtifactRef): Promise<string[]> {
    return this.#prompts.get(ref, async () =>
      parsePromptList((await this.#store.get(ref)).toString('utf8')).map(({ prompt }) => prompt),
    );
  }
}

/** The blob that was asked for last, as it was read; a failure is not kept. */
class Last<T> {
  #last: { digest: string; value: Promise<T> } | undefined;

  get({ digest }: ArtifactRef, read: () => Promise<T>): Promise<T> {
    if (this.#last?.digest === digest) return this.#last.value;
    const value = read();
    value.catch(() => (this.#last = undefined));
    this.#last = { digest, value };
    return value;
  }
}
