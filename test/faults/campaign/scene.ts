/**
 * One round as it goes on: its runs, what was done to them, and the care that a person would take:
 * start anew what has ended, make room, resume what failed.
 */
import { RunStatus, type Run } from '@spindle/proto';
import { unsealed } from '@spindle/kit';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { until } from '../../harness/wait.js';
import type { Random } from './random.js';
import { filesOf } from './stored-files.js';
import type { Subject, World } from './world.js';

/** How often a run that fails is resumed before what was damaged comes back from a backup. */
const mostResumes = 2;
const pollMs = 50;
const answerMs = 180_000;

/** A round that went wrong beyond what care can mend; the message says how. */
export class Silent extends Error {}

/** A run's record cannot be read, and the product said so: no answer comes before it is back. */
export class Unreadable extends Error {}

function isUnreadable(message: string): boolean {
  return /is unreadable/.test(message);
}

export class Scene {
  /** What happened, in order, for the person who reads why a round failed. */
  readonly story: string[] = [];
  /** Sentences by which the product has told of trouble. */
  readonly told: string[] = [];
  /** Gives back what an attack has taken of the disk. */
  makeRoom: () => Promise<void> = async () => undefined;
  /** Files as they were before they were damaged. */
  readonly backups = new Map<string, Buffer>();
  hasNeededBackup = false;
  readonly runIds: string[] = [];
  readonly #resumes = new Map<string, number>();
  #last = { seen: '', at: performance.now() };

  constructor(
    readonly world: World,
    readonly subject: Subject,
    readonly random: Random,
    readonly options: { runId: string; stallMs: number },
  ) {}

  get runId(): string {
    return this.options.runId;
  }

  progress(): Promise<number> {
    return this.world.progressOf(this.runId, this.subject.config.train.steps);
  }

  /** A training has left its first checkpoint, and is not over. */
  async isTraining(): Promise<boolean> {
    return (await filesOf('checkpoint-manifest', this.world.artifacts, this.runId)).length > 0;
  }

  /** By the run's record in its folder; what is damaged later is another matter. */
  async hasEnded(): Promise<boolean> {
    const file = join(this.world.mesh.runDirectory(this.runId), 'run.json');
    try {
      const record: unknown = JSON.parse(unsealed(await readFile(file, 'utf8'), file));
      return z.object({ state: z.object({ status: z.literal('succeeded') }) }).safeParse(record)
        .success;
    } catch {
      // It is damaged, or not there yet.
      return false;
    }
  }

  note(what: string): void {
    this.story.push(what);
  }

  async create(runId: string, config: object = this.subject.config): Promise<void> {
    await this.ask(`the creation of ${runId}`, () => this.world.mesh.create(config, runId));
    this.runIds.push(runId);
  }

  /** A call that is made again until the gateway answers it; Unreadable where it will not. */
  async ask<T>(what: string, call: () => Promise<T | undefined | false>): Promise<T> {
    const answer = await until(
      what,
      async () => {
        try {
          const value = await call();
          return value === undefined || value === false ? undefined : { value };
        } catch (thrown) {
          const message = thrown instanceof Error ? thrown.message : String(thrown);
          if (isUnreadable(message)) return new Unreadable(message);
          throw thrown;
        }
      },
      answerMs,
    );
    if (answer instanceof Unreadable) throw answer;
    return answer.value;
  }

  /** A moment that no condition names: faults come at any time. */
  async anyMoment(mostMs: number): Promise<void> {
    await delay(this.random.int(0, mostMs));
  }

  /** Waits for a condition, with care taken of the runs; false when they were over before. */
  async reaches(condition: () => Promise<boolean> | boolean): Promise<boolean> {
    for (;;) {
      if (await condition()) return true;
      if (await this.tend()) return false;
      await delay(pollMs);
    }
  }

  /** Until all runs have succeeded. */
  async end(): Promise<void> {
    await this.reaches(() => false);
  }

  /** Looks at every run and does what a person would; true once all have succeeded. */
  async tend(): Promise<boolean> {
    await this.#startAnew();
    const seen: string[] = [];
    let succeeded = 0;
    for (const runId of this.runIds) {
      const run = await this.#look(runId);
      if (run === undefined) continue;
      seen.push(signature(run));
      if (run.status === RunStatus.SUCCEEDED) succeeded++;
      else await this.#mend(run);
    }
    this.#watchForStall(seen.join('\n'));
    return succeeded === this.runIds.length;
  }

  async #startAnew(): Promise<void> {
    const { mesh } = this.world;
    for (const name of mesh.names) {
      if (mesh.isRunning(name)) continue;
      const last = mesh.log(name).split('\n').at(-1)?.slice(0, 300) ?? '';
      this.note(`${name} had ended and is started anew (its last line: ${last})`);
      await mesh.revive(name);
    }
  }

  async #look(runId: string): Promise<Run | undefined> {
    const { client } = this.world.mesh;
    try {
      return (await client.getRun({ runId })).run;
    } catch (thrown) {
      const message = thrown instanceof Error ? thrown.message : String(thrown);
      if (isUnreadable(message)) {
        if (this.backups.size === 0) throw new Silent(message);
        this.tell(message);
        await this.#restore();
      }
      // A gateway that takes over may not know its runs yet; one that never does is a stall.
      return undefined;
    }
  }

  async #mend({ runId, status, reason }: Run): Promise<void> {
    if (status !== RunStatus.FAILED && status !== RunStatus.PAUSED) return;
    if (reason === '') throw new Silent(`${runId}: ${RunStatus[status]} without a reason`);
    const sentence = `${runId} ${RunStatus[status]}: ${reason}`;
    if (this.told.at(-1) !== sentence) this.tell(sentence);
    await this.makeRoom();
    const resumes = this.#resumes.get(runId) ?? 0;
    if (status === RunStatus.FAILED && resumes >= mostResumes) {
      if (this.backups.size > 0) await this.#restore();
      else if (resumes > mostResumes)
        throw new Silent(`${runId}: resuming does not help: ${reason}`);
    }
    try {
      await this.world.mesh.client.resumeRun({ runId });
      this.#resumes.set(runId, resumes + 1);
    } catch (thrown) {
      // Another run may be going on; or the gateway is away.
      const message = thrown instanceof Error ? thrown.message : String(thrown);
      if (this.story.at(-1) !== message) this.note(message);
    }
  }

  tell(sentence: string): void {
    this.note(sentence);
    this.told.push(sentence);
  }

  /** As a person who has a backup does. The gateway reads records when it starts. */
  async #restore(): Promise<void> {
    const { mesh } = this.world;
    this.hasNeededBackup = true;
    for (const [file, bytes] of this.backups) {
      await chmod(file, 0o644).catch(() => undefined);
      await writeFile(file, bytes);
    }
    this.note(`${[...this.backups.keys()].join(', ')} came back from the backup`);
    this.backups.clear();
    await mesh.crash('gateway');
  }

  #watchForStall(seen: string): void {
    const now = performance.now();
    if (seen !== this.#last.seen) this.#last = { seen, at: now };
    if (now - this.#last.at > this.options.stallMs)
      throw new Silent(`nothing moves for ${this.options.stallMs / 1000} s: ${seen}`);
  }
}

function signature({ runId, status, reason, stages }: Run): string {
  const all = stages.map((one) => `${one.stage} ${one.state} ${one.done}/${one.total}`);
  return `${runId} ${RunStatus[status]} ${reason} ${all.join(', ')}`;
}
