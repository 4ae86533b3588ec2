/**
 * A copy of the newest checkpoint in the artifact store of a cluster. From it training resumes
 * where the trainer's folder is not there: on another machine, or in a pod that came back without
 * its volume. Copies are made in the background and cost no step. One that fails is a warning, and
 * the next checkpoint is the next try. Data goes up before its manifest, and older copies are
 * removed after both. So the store has a whole checkpoint or none at every moment.
 */
import { readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureError, isCode, type Logger } from '@spindle/kit';
import { type CheckpointMirror } from '@spindle/mesh';
import { manifestSteps, parseName, stem } from './checkpoint-names.js';

export class CheckpointCopies {
  #busy: Promise<void> = Promise.resolve();
  /** The step of the checkpoint that goes up next. A newer one takes its place while it waits. */
  #next: number | undefined;

  constructor(
    readonly mirror: CheckpointMirror,
    readonly directory: string,
    readonly logger: Logger,
  ) {}

  /** Copies the checkpoint of `step`, which must be whole, in the background. */
  add(step: number): void {
    const waits = this.#next !== undefined;
    this.#next = step;
    if (!waits) this.#busy = this.#busy.then(() => this.#upload());
  }

  /** Resolves when everything that was added is in the store, or has failed to get there. */
  settled(): Promise<void> {
    return this.#busy;
  }

  /**
   * Brings a checkpoint that is newer than `newest` here; it is not verified yet. Throws when the
   * store does not answer.
   */
  async fetch(newest: number): Promise<void> {
    const step = Math.max(0, ...manifestSteps(await this.mirror.list()));
    if (step <= newest) return;
    // The manifest comes last, as when a checkpoint is written.
    for (const name of [`${stem(step)}.safetensors`, `${stem(step)}.json`]) await this.bring(name);
    this.logger.info({ step }, 'a checkpoint came from the artifact store');
  }

  /** Downloads a file into the folder; returns whether the store has it. */
  async bring(name: string): Promise<boolean> {
    const temporary = join(this.directory, `.${name}.${process.pid}.tmp`);
    try {
      if (!(await this.mirror.download(name, temporary))) return false;
      await rename(temporary, join(this.directory, name));
      return true;
    } finally {
      await rm(temporary, { force: true });
    }
  }

  async remove(which: (step: number) => boolean): Promise<void> {
    for (const name of await this.mirror.list()) {
      const file = parseName(name);
      if (file !== null && which(file.step)) await this.mirror.remove(name);
    }
  }

  /** Removes all copies, once training needs none any more. */
  async clear(): Promise<void> {
    this.#next = undefined;
    await this.#busy;
    for (const name of await this.mirror.list()) await this.mirror.remove(name);
  }

  async #upload(): Promise<void> {
    const step = this.#next;
    this.#next = undefined;
    if (step === undefined) return;
    const name = stem(step);
    try {
      const manifest = await readFile(join(this.directory, `${name}.json`));
      await this.mirror.upload(`${name}.safetensors`, join(this.directory, `${name}.safetensors`));
      await this.mirror.write(`${name}.json`, manifest);
      await this.remove((other) => other < step);
    } catch (thrown) {
      // The checkpoint was pruned before its turn came, and a newer one is on its way.
      if (isCode(thrown, 'ENOENT')) return;
      this.logger.warn(
        { checkpoint: name, reason: ensureError(thrown).message },
        'a checkpoint could not be copied to the artifact store',
      );
    }
  }
}
