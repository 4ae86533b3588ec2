/** What a campaign is about: a mesh in a folder of its own, and what a calm run leaves there. */
import { RunStatus } from '@spindle/proto';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Mesh, type ServiceKind } from '../../harness/mesh.js';
import { until } from '../../harness/wait.js';
import { Relay } from './relay.js';
import { readRunFiles, type RunFiles } from './run-files.js';
import { Shim } from './shim.js';

/** Room for two tiny runs with their checkpoints. */
const diskSize = '1200m';

/** A config whose runs are disturbed, and how one ends that is not. */
export interface Subject {
  config: { seed: number; train: { steps: number } };
  calm: RunFiles;
  /** What `progressOf` says at its end. */
  length: number;
}

export class World {
  readonly mesh: Mesh;
  /** Where the gateway finds its trainer. */
  readonly relay: Relay;
  /** Null: without a C compiler. */
  readonly shim: Shim | null;
  /** Artifacts lie on a file system of their own, which may be filled. */
  readonly isDiskOwn: boolean;
  readonly #folder: string;
  /** The trainer that the relay leads to. */
  trainer = 'trainer';
  #joined = 0;

  private constructor(
    folder: string,
    { mesh, relay, isDiskOwn }: { mesh: Mesh; relay: Relay; isDiskOwn: boolean },
  ) {
    this.#folder = folder;
    this.mesh = mesh;
    this.relay = relay;
    this.isDiskOwn = isDiskOwn;
    this.shim = Shim.build(folder);
  }

  static async open(): Promise<World> {
    const folder = await mkdtemp(join(tmpdir(), 'spindle-faults-'));
    const artifacts = await mkdtemp(join(folder, 'artifacts-'));
    // Only root may.
    const mount = ['-t', 'tmpfs', '-o', `size=${diskSize}`, 'tmpfs', artifacts];
    const isDiskOwn = spawnSync('mount', mount, { stdio: 'ignore' }).status === 0;
    const relay = await Relay.listen();
    try {
      const mesh = await Mesh.start({
        artifacts,
        env: { gateway: { SPINDLE_TRAINER_ADDRESS: relay.address } },
      });
      relay.target = mesh.address('trainer');
      return new World(folder, { mesh, relay, isDiskOwn });
    } catch (error) {
      await relay.close();
      await leaveFolder(folder, artifacts, isDiskOwn);
      throw error;
    }
  }

  get artifacts(): string {
    return this.mesh.artifacts;
  }

  async close(): Promise<void> {
    // A process that stands still would not end.
    for (const name of this.mesh.names) this.mesh.signal(name, 'SIGCONT');
    await this.mesh.stop();
    await this.relay.close();
    await leaveFolder(this.#folder, this.artifacts, this.isDiskOwn);
  }

  /** Runs a config without trouble. */
  async calm(config: Subject['config'], runId: string): Promise<Subject> {
    await this.mesh.create(config, runId);
    const run = await this.mesh.ended(runId, 600_000);
    if (run.status !== RunStatus.SUCCEEDED) throw new Error(`the calm run failed: ${run.reason}`);
    const calm = await readRunFiles(this.mesh.runDirectory(runId));
    return { config, calm, length: await this.progressOf(runId, config.train.steps) };
  }

  /** Grows with every result and every checkpoint of a run; seen from its files. */
  async progressOf(runId: string, steps: number): Promise<number> {
    const store = join(this.artifacts, 'store');
    const results = await namesBelow(join(store, 'results', runId));
    const trainings = results.filter((name) => name.startsWith('train-')).length;
    const checkpoints = await namesBelow(join(store, 'checkpoints', runId));
    const newest = Math.max(
      0,
      ...checkpoints.map((name) => Number(/step-(\d+)\.json$/.exec(name)?.[1] ?? 0)),
    );
    return results.length + trainings * steps + newest;
  }

  /** A name for one more process. */
  newName(kind: ServiceKind): string {
    return `${kind}-${++this.#joined}`;
  }

  /** The name of the process that does a service's work now. */
  nameOf(kind: string): string {
    return kind === 'trainer' ? this.trainer : kind;
  }

  /** Nothing of the rounds before is left that would spare the next one its work. */
  async clear(): Promise<void> {
    const { client } = this.mesh;
    const { runs } = await until('the list of runs', () => client.listRuns({}));
    // Refused for as long as a worker's last sign of life tells of the run.
    for (const { runId } of runs)
      await until(`the deletion of ${runId}`, () => client.deleteRun({ runId }));
    for (const folder of ['sha256', 'results', 'checkpoints', 'damaged']) {
      const path = join(this.artifacts, 'store', folder);
      for (const name of existsSync(path) ? await readdir(path) : [])
        await rm(join(path, name), { recursive: true, force: true });
    }
  }

  /** The last lines of what every process said. */
  logs(): string {
    return this.mesh.names.map((name) => `--- ${name}\n${this.mesh.log(name)}`).join('\n');
  }

  async natsLog(): Promise<string> {
    return readFile(join(this.mesh.natsDirectory, 'nats-server.log'), 'utf8').catch(() => '');
  }
}

async function leaveFolder(folder: string, artifacts: string, isDiskOwn: boolean): Promise<void> {
  if (isDiskOwn) spawnSync('umount', ['-l', artifacts]);
  await rm(folder, { recursive: true, force: true });
}

async function namesBelow(folder: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true }).catch(() => []);
  return names.filter((name) => name.endsWith('.json'));
}
