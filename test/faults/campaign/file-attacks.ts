/** Stored files that are damaged, calls on files that fail, and a disk that is full. */
import { chmod, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { topUp } from '../../harness/top-up.js';
import { lacksNothing, services, type Attack, type Struck } from './attack.js';
import { kindOf } from './process-attacks.js';
import type { Scene } from './scene.js';
import { calls, callsThatWrite, type Action, type Call } from './shim.js';
import { fileClasses, filesOf, injure, injuries, type FileClass } from './stored-files.js';

/** Of the calls on files that a service makes in a tiny run, those from the first ones on. */
const mostCalls = 60;
/** A file that one class has many of is damaged at several places. */
const mostFiles = 4;

const damageRunning: Attack = {
  name: 'damage',
  weight: 4,
  lacks: lacksNothing,
  when: 'during',
  async strike(scene) {
    const struck: Struck[] = [];
    for (const kind of scene.random.some(fileClasses, scene.random.int(1, 3)))
      struck.push(...(await damage(scene, kind, kind)));
    return struck;
  },
};

const damageStopped: Attack = {
  name: 'damage while all is stopped',
  weight: 5,
  lacks: lacksNothing,
  when: 'during',
  strike: (scene) =>
    restarted(scene, false, async () => {
      const struck: Struck[] = [];
      for (const kind of scene.random.some(fileClasses, scene.random.int(2, mostFiles)))
        struck.push(...(await damage(scene, kind, `${kind}, at rest`)));
      if (scene.random.isTrue(0.3)) struck.push(...(await damageNats(scene)));
      return struck;
    }),
};

const lostRecord: Attack = {
  name: 'run.json damaged, bucket wiped',
  weight: 1,
  lacks: lacksNothing,
  when: 'during',
  strike: (scene) =>
    restarted(scene, true, () => damage(scene, 'run.json', 'run.json, the bucket wiped')),
};

/** Ends every process, does something to the files, and starts every process anew. */
async function restarted(
  scene: Scene,
  isWiped: boolean,
  work: () => Promise<Struck[]>,
): Promise<Struck[]> {
  const { mesh } = scene.world;
  const { names } = mesh;
  const signal = scene.random.isTrue(0.5) ? 'SIGKILL' : 'SIGTERM';
  await Promise.all(names.map((name) => mesh.kill(name, signal)));
  await mesh.kill('nats-server');
  if (isWiped) await mesh.wipeNats();
  const struck = await work();
  await mesh.revive('nats-server').catch(async (thrown: unknown) => {
    // Its store is damaged; it holds nothing that the artifacts do not hold.
    scene.tell(thrown instanceof Error ? thrown.message : String(thrown));
    await mesh.wipeNats();
    await mesh.revive('nats-server');
  });
  await Promise.all(names.map((name) => mesh.revive(name)));
  return struck;
}

async function damage(scene: Scene, kind: FileClass, row: string): Promise<Struck[]> {
  const { random, world, backups } = scene;
  if (await scene.hasEnded()) return [];
  const file = random.pick(await filesOf(kind, world.artifacts, scene.runId));
  if (file === undefined) return [];
  const before = await readFile(file).catch(() => null);
  const injury = random.isTrue(0.6) ? 'bit' : random.pick(injuries);
  const done = before === null ? undefined : await injure(file, injury, random);
  if (before === null || done === undefined) return [];
  if (await scene.hasEnded()) {
    await chmod(file, 0o644).catch(() => undefined);
    await writeFile(file, before);
    return [];
  }
  // What a run was given, and the run's own record: nothing can make them again.
  const isGivenBack = kind === 'texts' || kind === 'run.json';
  if (isGivenBack) backups.set(file, before);
  return [{ fault: `damaged: ${row}`, what: `${file}: ${done}`, isGivenBack }];
}

async function damageNats({ world, random }: Scene): Promise<Struck[]> {
  const folder = join(world.mesh.natsDirectory, 'jetstream');
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const file = random.pick(entries.filter((entry) => entry.isFile()));
  if (file === undefined) return [];
  const path = join(file.parentPath, file.name);
  const done = await injure(path, random.isTrue(0.7) ? 'bit' : 'cut', random);
  return done === undefined
    ? []
    : [{ fault: "damaged: nats-server's store, at rest", what: `${path}: ${done}` }];
}

const failingCall: Attack = {
  name: 'a call on a file fails',
  weight: 6,
  lacks: ({ shim }) => (shim === null ? 'a C compiler' : ''),
  when: 'during',
  async strike(scene) {
    const { random } = scene;
    const action = random.pick(['EIO', 'EIO', 'ENOSPC'] as const);
    const call = random.pick(action === 'EIO' ? calls : callsThatWrite);
    const times = random.isTrue(0.7) ? 1 : random.int(2, 5);
    return inCall(scene, { call, times, action }, action);
  },
};

const diesInCall: Attack = {
  name: 'a process dies in a call on a file',
  weight: 5,
  lacks: ({ shim }) => (shim === null ? 'a C compiler' : ''),
  when: 'during',
  async strike(scene) {
    const isTorn = scene.random.isTrue(0.3);
    const call = isTorn ? 'write' : scene.random.pick(calls);
    const fault = isTorn ? 'torn write' : 'death in a call';
    return inCall(scene, { call, times: 1, action: isTorn ? 'torn' : 'kill' }, fault);
  },
};

async function inCall(
  scene: Scene,
  { call, times, action }: { call: Call; times: number; action: Action },
  fault: string,
): Promise<Struck[]> {
  const { world, random } = scene;
  const { shim, mesh } = world;
  if (shim === null) return [];
  const name = world.nameOf(random.pick(services));
  // Small numbers are as likely as large ones: each service makes another number of calls.
  const nth = Math.max(1, Math.floor(mostCalls ** random.next()));
  const armed = await shim.arm({ call, nth, times, action }, mesh.artifacts);
  let hasStarted = true;
  await mesh.kill(name);
  await mesh.revive(name, armed).catch((thrown: unknown) => {
    // It may be one of the calls that it starts with.
    hasStarted = false;
    scene.note(thrown instanceof Error ? thrown.message : String(thrown));
  });
  if (!hasStarted) await mesh.revive(name);
  await scene.reaches(() => shim.met().length > 0);
  const met = shim.met();
  // Without the shim, one that has met its fault goes on as it is.
  if (met.length === 0 && hasStarted) await mesh.crash(name);
  const row = `${fault}: ${kindOf(name)}`;
  return met.length === 0 ? [] : [{ fault: row, what: `${name}: ${met.join('; ')}` }];
}

const fullDisk: Attack = {
  name: 'full disk',
  weight: 2,
  lacks: ({ isDiskOwn }) => (isDiskOwn ? '' : 'the right to mount a file system'),
  when: 'during',
  async strike(scene) {
    const ballast = join(scene.world.artifacts, 'ballast');
    let hasMadeRoom = false;
    scene.makeRoom = async () => {
      hasMadeRoom = true;
      await rm(ballast, { force: true });
    };
    const mostMs = scene.random.int(500, 20_000);
    const began = performance.now();
    // A removed checkpoint gives some room back: it is taken as well, until a run has noticed.
    await scene.reaches(() => {
      if (!hasMadeRoom) topUp(ballast);
      return hasMadeRoom || performance.now() - began > mostMs;
    });
    await scene.makeRoom();
    return [{ fault: 'full disk', what: `the disk was full for up to ${mostMs} ms` }];
  },
};

export const fileAttacks = [
  damageRunning,
  damageStopped,
  lostRecord,
  failingCall,
  diesInCall,
  fullDisk,
];
