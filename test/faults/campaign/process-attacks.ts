/** Processes that are killed, that stand still, and that wake up after others took over. */
import type { ServiceKind } from '../../harness/mesh.js';
import { lacksNothing, services, type Attack, type Struck } from './attack.js';
import type { Scene } from './scene.js';
import type { Call } from './shim.js';

const everybody = [...services, 'nats-server'] as const;
/** Longer than the trainer's lease, which is the longest. */
const mostFrozenMs = 16_000;
/** None of them is made before a service takes calls. */
const callsOfWork: readonly [Call, ...Call[]] = ['write', 'fsync', 'rename', 'link'];
/** Longer than a job's wait for its worker in this harness. */
const jobWaitMs = 7_000;

const kill: Attack = {
  name: 'kill',
  weight: 6,
  lacks: lacksNothing,
  when: 'during',
  async strike(scene) {
    const { random, world } = scene;
    const victims = random
      .some(everybody, random.isTrue(0.25) ? 2 : 1)
      .map((name) => world.nameOf(name));
    await Promise.all(victims.map((name) => world.mesh.kill(name)));
    if (random.isTrue(0.5)) await scene.anyMoment(3_000);
    // The others wait for nats-server as they start.
    victims.sort((name) => (name === 'nats-server' ? -1 : 1));
    for (const name of victims) await world.mesh.revive(name);
    return victims.map((name) => struck(`kill ${kindOf(name)}`, `${name} was killed`));
  },
};

const wipe: Attack = {
  name: 'wiped nats-server',
  weight: 2,
  lacks: lacksNothing,
  when: 'during',
  async strike({ world: { mesh } }) {
    await mesh.kill('nats-server');
    await mesh.wipeNats();
    await mesh.revive('nats-server');
    return [struck('nats-server killed, its store wiped', 'nats-server was killed and wiped')];
  },
};

const freeze: Attack = {
  name: 'freeze',
  weight: 2,
  lacks: lacksNothing,
  when: 'during',
  async strike(scene) {
    const { random, world } = scene;
    const name = world.nameOf(random.pick(everybody));
    world.mesh.signal(name, 'SIGSTOP');
    try {
      await scene.anyMoment(mostFrozenMs);
    } finally {
      world.mesh.signal(name, 'SIGCONT');
    }
    return [struck('SIGSTOP, SIGCONT up to 16 s later', `${name} stood still for a while`)];
  },
};

const zombieTrainer: Attack = {
  name: 'zombie trainer',
  weight: 1,
  lacks: lacksNothing,
  when: 'during',
  async strike(scene) {
    if (!(await scene.reaches(() => scene.isTraining()))) return [];
    await scene.anyMoment(300);
    scene.world.mesh.signal(scene.world.trainer, 'SIGSTOP');
    await succeedTrainer(scene);
    return [struck('zombie trainer', 'a trainer woke up after another had taken over')];
  },
};

const zombieInCall: Attack = {
  name: 'zombie trainer in a file call',
  weight: 2,
  lacks: ({ shim }) => (shim === null ? 'a C compiler' : ''),
  when: 'during',
  async strike(scene) {
    const { world, random } = scene;
    const { shim, mesh } = world;
    if (shim === null) return [];
    const call = random.pick(callsOfWork);
    const fault = { call, nth: random.int(1, 20), times: 1, action: 'stop' } as const;
    const old = world.trainer;
    const armed = await shim.arm(fault, mesh.artifacts);
    await mesh.kill(old);
    await mesh.revive(old, armed);
    const isMet = await scene.reaches(() => shim.met().length > 0);
    const where = shim.met()[0] ?? '';
    if (isMet) await succeedTrainer(scene);
    if (!isMet) await mesh.crash(old);
    return isMet ? [struck('zombie trainer in a file call', `a trainer woke up in ${where}`)] : [];
  },
};

/** The trainer stands still. Another one takes its place and works; then the first one wakes up. */
async function succeedTrainer(scene: Scene): Promise<void> {
  const { world, random } = scene;
  const { mesh, relay } = world;
  const old = world.trainer;
  const next = world.newName('trainer');
  try {
    await mesh.join('trainer', next);
    world.trainer = next;
    relay.target = mesh.address(next);
    relay.cut();
    const before = await scene.progress();
    await scene.reaches(async () => (await scene.progress()) > before);
    if (random.isTrue(0.5)) await scene.anyMoment(1_000);
  } finally {
    mesh.signal(old, 'SIGCONT');
    await scene.anyMoment(3_000);
    await mesh.leave(old);
  }
}

const zombieWorker: Attack = {
  name: 'zombie worker',
  weight: 2,
  lacks: lacksNothing,
  when: 'during',
  async strike(scene) {
    const { random, world } = scene;
    const { mesh } = world;
    const kind: ServiceKind = random.pick(['sampler', 'scorer']);
    const other = world.newName(kind);
    mesh.signal(kind, 'SIGSTOP');
    try {
      await mesh.join(kind, other);
      await scene.anyMoment(2 * jobWaitMs);
    } finally {
      mesh.signal(kind, 'SIGCONT');
      await scene.anyMoment(1_000);
      await mesh.leave(other);
    }
    return [struck(`zombie ${kind}`, `${kind} woke up beside ${other}`)];
  },
};

const cut: Attack = {
  name: 'cut',
  weight: 1,
  lacks: lacksNothing,
  when: 'during',
  async strike(scene) {
    const { relay, mesh, trainer } = scene.world;
    relay.target = undefined;
    relay.cut();
    try {
      await scene.anyMoment(6_000);
    } finally {
      relay.target = mesh.address(trainer);
    }
    return [struck('connection to the trainer cut', 'the gateway lost its trainer for a while')];
  },
};

export function kindOf(name: string): string {
  return name === 'nats-server' ? name : name.replace(/-\d+$/, '');
}

function struck(fault: string, what: string): Struck {
  return { fault, what };
}

export const processAttacks = [kill, wipe, freeze, zombieTrainer, zombieInCall, zombieWorker, cut];
