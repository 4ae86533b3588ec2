/**
 * Checkpoints of one training run. Each is a file such as step-00000050.safetensors and a manifest
 * (.json) with its digest. The manifest is written last: a checkpoint exists once its manifest
 * does. Older ones are removed only after the newest was read back and its digest agreed.
 */
import { readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import {
  ensureError,
  sealed,
  sha256File,
  SpindleError,
  unsealed,
  writeFileAtomic,
  type Logger,
} from '@spindle/kit';
import { z } from 'zod';
import type { CheckpointCopies } from './checkpoint-copies.js';
import {
  isAnothersTemporary,
  isLeftBehind,
  manifestSteps,
  stem,
  temporaryName,
} from './checkpoint-names.js';
import type { Rollbacks } from './domain/recovery.js';

const manifestSchema = z.object({
  schemaVersion: z.literal(1),
  step: z.number().int().min(0),
  bytes: z.number().int().min(0),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  precision: z.enum(['float32', 'bfloat16']),
  precisionReason: z.string(),
  fingerprint: z.record(z.string(), z.string()),
});

export type CheckpointManifest = z.output<typeof manifestSchema>;
export type CheckpointFacts = Pick<
  CheckpointManifest,
  'precision' | 'precisionReason' | 'fingerprint'
>;
export interface Checkpoint {
  path: string;
  manifest: CheckpointManifest;
}

const rollbacksSchema: z.ZodType<Rollbacks> = z.object({
  count: z.number().int().min(0),
  learningRateScale: z.number().positive(),
});
const rollbacksFile = 'rollbacks.json';
const none: Rollbacks = { count: 0, learningRateScale: 1 };

export class Checkpoints {
  /**
   * Whether this process still holds the training's lease: asked before anything is put in place or
   * removed, since a process that stood still for long may have a successor in the same folder.
   */
  mayWrite: () => boolean | Promise<boolean> = () => true;
  /** What the folder held when this process last wrote or read all of it. */
  #left: string | null = null;

  constructor(
    readonly directory: string,
    readonly keep: number,
    readonly logger: Logger,
    /** Copies beyond this machine; null: none are made. */
    readonly copies: CheckpointCopies | null = null,
  ) {}

  /** `write` leaves a durable file at the path it is given. */
  async save(
    step: number,
    facts: CheckpointFacts,
    write: (path: string) => Promise<void>,
  ): Promise<Checkpoint> {
    const path = join(this.directory, `${stem(step)}.safetensors`);
    const temporary = join(this.directory, temporaryName(step));
    try {
      await write(temporary);
      const manifest: CheckpointManifest = {
        schemaVersion: 1,
        step,
        bytes: (await stat(temporary)).size,
        sha256: await sha256File(temporary),
        ...facts,
      };
      await this.#requireLease();
      await rename(temporary, path);
      await this.#requireLease();
      // Atomic, and it syncs the folder, which makes the rename durable too.
      await writeFileAtomic(
        join(this.directory, `${stem(step)}.json`),
        sealed(JSON.stringify(manifest, null, 1)),
      );
      await this.#noteState();
      const checkpoint = { path, manifest };
      await verify(checkpoint);
      await this.#prune();
      await this.#noteState();
      this.copies?.add(step);
      return checkpoint;
    } catch (thrown) {
      await this.#removeTemporary(temporary);
      const error = ensureError(thrown);
      throw new SpindleError(
        error.code,
        `checkpoint of step ${step} could not be written: ${error.message}`,
        { cause: thrown },
      );
    }
  }

  /**
   * Takes a checkpoint that another machine has left of this training, where it is newer than the
   * newest one here. Throws when the store of copies does not answer.
   */
  async fetch(): Promise<void> {
    if (this.copies !== null) await this.#fetchCopies(this.copies);
    await this.#noteState();
  }

  async #fetchCopies(copies: CheckpointCopies): Promise<void> {
    await copies.fetch(await this.newest());
    const before = await this.rollbacks();
    if (!(await copies.bring(rollbacksFile))) return;
    if ((await this.rollbacks()).count < before.count) await this.noteRollbacks(before);
  }

  /**
   * Whether no other process has saved, removed or gone back here since this one has looked, nor is
   * about to.
   */
  async isUntouched(): Promise<boolean> {
    const names = await readdir(this.directory).catch(() => []);
    return this.#left === (await this.#state(names)) && !names.some(isAnothersTemporary);
  }

  async #noteState(): Promise<void> {
    this.#left = await this.#state(await readdir(this.directory));
  }

  async #state(names: readonly string[]): Promise<string> {
    const path = join(this.directory, rollbacksFile);
    const rollbacks = await readFile(path, 'utf8').catch(() => '');
    return [...manifestSteps(names).sort((a, b) => a - b), rollbacks].join(' ');
  }

  /**
   * The checkpoints, the newest first. Each is verified when it is asked for. A damaged one is set
   * aside, and the next older one comes instead.
   */
  async *usable(): AsyncGenerator<Checkpoint> {
    if ((await this.#readRollbacks()) === null) await this.#startOver();
    for (const step of await this.#steps()) {
      const path = join(this.directory, `${stem(step)}.safetensors`);
      try {
        const checkpoint = { path, manifest: await this.#manifest(step) };
        await verify(checkpoint);
        yield checkpoint;
      } catch (thrown) {
        await this.setAside(step, ensureError(thrown).message);
      }
    }
  }

  /**
   * Without knowing how often training went back, its checkpoints would go on at a wrong learning
   * rate. From the start, it goes back where it went back before.
   */
  async #startOver(): Promise<void> {
    for (const step of await this.#steps())
      await this.setAside(step, `${rollbacksFile} beside it is damaged`);
    const path = join(this.directory, rollbacksFile);
    await rename(path, `${path}.damaged`);
    await this.copies?.mirror.remove(rollbacksFile);
    await this.#noteState();
  }

  /** Renames damaged files to a name that is never read again. They stay for people to look at. */
  async setAside(step: number, reason: string): Promise<void> {
    this.logger.warn({ step, reason }, 'a checkpoint is damaged and was set aside');
    for (const extension of ['json', 'safetensors']) {
      const path = join(this.directory, `${stem(step)}.${extension}`);
      await rename(path, `${path}.damaged`).catch(() => undefined);
    }
    await this.#noteState();
    // A copy that stayed would come back with the next resume.
    await this.copies?.remove((other) => other === step);
  }

  async rollbacks(): Promise<Rollbacks> {
    return (await this.#readRollbacks()) ?? none;
  }

  /** Null for what is damaged. */
  async #readRollbacks(): Promise<Rollbacks | null> {
    const path = join(this.directory, rollbacksFile);
    const text = await readFile(path, 'utf8').catch(() => null);
    if (text === null) return none;
    try {
      return rollbacksSchema.parse(JSON.parse(unsealed(text, path)));
    } catch {
      return null;
    }
  }

  async noteRollbacks(rollbacks: Rollbacks): Promise<void> {
    const text = sealed(JSON.stringify(rollbacks));
    await writeFileAtomic(join(this.directory, rollbacksFile), text);
    await this.#noteState();
    await this.copies?.mirror.write(rollbacksFile, Buffer.from(text));
  }

  /** The step of the newest checkpoint, verified or not; 0 without any. */
  async newest(): Promise<number> {
    return (await this.#steps())[0] ?? 0;
  }

  /** Removes the checkpoints of this step and later ones, and their copies. */
  async dropFrom(step: number): Promise<void> {
    await this.settled();
    for (const late of (await this.#steps()).filter((other) => other >= step)) {
      // Manifest first: without it the checkpoint is gone, whatever happens next.
      await rm(join(this.directory, `${stem(late)}.json`), { force: true });
      await rm(join(this.directory, `${stem(late)}.safetensors`), { force: true });
    }
    await this.#noteState();
    if (this.copies === null) return;
    await this.copies.remove((other) => other >= step);
    const newest = await this.newest();
    if (newest > 0) this.copies.add(newest);
  }

  /** Resolves when the copies that are on their way have arrived, or failed to. */
  async settled(): Promise<void> {
    await this.copies?.settled();
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
    await this.copies?.clear().catch((error: unknown) => {
      // The result is committed, so copies that are left are never read.
      this.logger.warn(
        { reason: ensureError(error).message },
        'copies of checkpoints could not be removed from the artifact store',
      );
    });
  }

  async #steps(): Promise<number[]> {
    return manifestSteps(await readdir(this.directory)).sort((a, b) => b - a);
  }

  async #manifest(step: number): Promise<CheckpointManifest> {
    const path = join(this.directory, `${stem(step)}.json`);
    return parseManifest(await readFile(path, 'utf8'), step, path);
  }

  async #requireLease(): Promise<void> {
    if (!(await this.mayWrite()))
      throw new SpindleError('ABORTED', 'another trainer has taken this training over');
  }

  async #prune(): Promise<void> {
    await this.#requireLease();
    for (const step of (await this.#steps()).slice(this.keep)) {
      // Manifest first: without it the checkpoint is gone, whatever happens next.
      await rm(join(this.directory, `${stem(step)}.json`), { force: true });
      await rm(join(this.directory, `${stem(step)}.safetensors`), { force: true });
    }
    for (const name of await readdir(this.directory)) {
      const path = join(this.directory, name);
      const changed = await stat(path).catch(() => null);
      if (changed && isLeftBehind(name, changed.mtimeMs)) await rm(path, { force: true });
    }
  }

  /** With what the engine writes before it renames it to that name. */
  async #removeTemporary(temporary: string): Promise<void> {
    const own = basename(temporary);
    for (const name of await readdir(this.directory).catch(() => []))
      if (name.startsWith(own)) await rm(join(this.directory, name), { force: true });
  }
}

/** Of the checkpoint of `step`; throws where it is damaged, or another one's. */
export function parseManifest(text: string, step: number, path: string): CheckpointManifest {
  const manifest = manifestSchema.parse(JSON.parse(unsealed(text, path)));
  if (manifest.step === step) return manifest;
  throw new SpindleError('DATA_LOSS', `${path}: step: expected ${step}, got ${manifest.step}`);
}

async function verify({ path, manifest }: Checkpoint): Promise<void> {
  const { size } = await stat(path);
  if (size !== manifest.bytes) {
    throw new SpindleError('DATA_LOSS', `${path}: expected ${manifest.bytes} bytes, got ${size}`);
  }
  const digest = await sha256File(path);
  if (digest !== manifest.sha256) {
    throw new SpindleError(
      'DATA_LOSS',
      `${path}: expected sha256 ${manifest.sha256}, got ${digest}`,
    );
  }
}
