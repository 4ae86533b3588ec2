/** What people do at bad moments. */
import { RunStatus } from '@spindle/proto';
import { lacksNothing, services, type Attack } from './attack.js';
import type { Scene } from './scene.js';

const pause: Attack = {
  name: 'pause',
  weight: 2,
  lacks: lacksNothing,
  when: 'during',
  async strike(scene) {
    const { world, runId, random } = scene;
    const { client } = world.mesh;
    const status = await scene.ask('the pause', async () => {
      const run = await world.mesh.run(runId);
      if (run.status !== RunStatus.RUNNING) return run.status;
      await client.pauseRun({ runId });
      return undefined;
    });
    if (status !== RunStatus.PAUSED) return [];
    if (random.isTrue(0.5)) await world.mesh.crash(world.nameOf(random.pick(services)));
    await scene.ask('the resume', () => client.resumeRun({ runId }));
    return [{ fault: 'pause and resume', what: 'the run was paused and resumed' }];
  },
};

const twoRuns: Attack = {
  name: 'two runs',
  weight: 1,
  lacks: lacksNothing,
  when: 'begin',
  async strike(scene) {
    await scene.create(scene.runId);
    await scene.create(`${scene.runId}-second`);
    return [{ fault: 'two runs at once', what: 'a second run waits' }];
  },
};

const again: Attack = {
  name: 'cancel, delete, create',
  weight: 2,
  lacks: lacksNothing,
  when: 'begin',
  async strike(scene) {
    const { world, runId, random, subject } = scene;
    const other = { ...subject.config, seed: subject.config.seed + 1 };
    const until = random.next() * 0.9 * subject.length;
    // A worker that stands still has a job of the old run in its hand while the new one begins.
    const held = random.isTrue(0.5) ? world.newName('sampler') : undefined;
    if (held !== undefined) await world.mesh.join('sampler', held);
    try {
      await scene.create(runId, other);
      await scene.reaches(async () => (await scene.progress()) >= until);
      if (held !== undefined) world.mesh.signal(held, 'SIGSTOP');
      await scene.ask('the cancel', () => cancelled(scene));
      await scene.ask('the deletion', () => deleted(scene));
      scene.runIds.length = 0;
      await scene.create(runId);
    } finally {
      if (held !== undefined) {
        world.mesh.signal(held, 'SIGCONT');
        await scene.anyMoment(2_000);
        await world.mesh.leave(held);
      }
    }
    const what = `a run of the same name was cancelled from ${until.toFixed(1)} on, and deleted`;
    const row = 'cancel, delete, create again';
    return [{ fault: held === undefined ? row : `${row}, a late worker`, what }];
  },
};

/** Refused while a worker is at a job of it: until its sign of life has expired, here. */
async function deleted(scene: Scene): Promise<boolean> {
  const { runId, world } = scene;
  const { client } = world.mesh;
  return client.deleteRun({ runId }).then(
    () => true,
    (thrown: unknown) => {
      const message = thrown instanceof Error ? thrown.message : String(thrown);
      scene.note(message);
      return /no run is named/.test(message);
    },
  );
}

async function cancelled({ world, runId }: Scene): Promise<boolean> {
  const { status } = await world.mesh.run(runId);
  const isOver =
    status === RunStatus.SUCCEEDED || status === RunStatus.FAILED || status === RunStatus.CANCELLED;
  if (!isOver) await world.mesh.client.cancelRun({ runId });
  return true;
}

export const userAttacks = [pause, twoRuns, again];
