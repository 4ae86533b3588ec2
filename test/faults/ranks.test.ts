import { asFloat32, createLogger, readSafetensors } from '@spindle/kit';
import {
  openLocalStore,
  startNatsServer,
  type ArtifactStore,
  type NatsServer,
} from '@spindle/mesh';
import type { ArtifactRef, TrainResponse } from '@spindle/proto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { TrainerProcess, tinyTraining } from '../harness/trainer.js';
import { freePortPair } from '../harness/ports.js';
import { until } from '../harness/wait.js';

const logger = createLogger('test', { level: 'silent', pretty: false });
const steps = 6;
const lora = { rank: 2, alpha: 4, targets: ['to_q', 'to_k', 'to_v', 'to_out.0'] };
let folder: string;
let nats: NatsServer;
let store: ArtifactStore;
const running: TrainerProcess[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spindle-ranks-test-'));
  nats = await startNatsServer({ dir: join(folder, 'nats'), logger });
  store = await openLocalStore(join(folder, 'artifacts'));
});
afterEach(async () => {
  await Promise.all(running.splice(0).map((trainer) => trainer.stop()));
});
afterAll(async () => {
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

async function start(env: Record<string, string>): Promise<TrainerProcess> {
  const trainer = await TrainerProcess.start(join(folder, 'artifacts'), nats.url, env);
  running.push(trainer);
  return trainer;
}

interface Curve {
  loss: number[];
  gradNorm: number[];
  accuracy: number[];
  errorReal: number[];
  weights: string;
  adapter: ArtifactRef | undefined;
  resumed: number[];
}

function curve(responses: readonly TrainResponse[]): Curve {
  const events = responses.map(({ event }) => event);
  const all = events.flatMap((event) => (event.case === 'step' ? [event.value] : []));
  const last = events.at(-1);
  return {
    loss: all.map(({ loss }) => loss),
    gradNorm: all.map(({ gradNorm }) => gradNorm),
    accuracy: all.map(({ implicitAccuracy }) => implicitAccuracy),
    errorReal: all.map(({ errorReal }) => errorReal),
    weights: last?.case === 'finished' ? (last.value.unet?.weights?.digest ?? '') : '',
    adapter: last?.case === 'finished' ? last.value.adapter : undefined,
    resumed: events.flatMap((event) => (event.case === 'started' ? [event.value.resumedStep] : [])),
  };
}

async function tensorsOf(ref: ArtifactRef | undefined): Promise<Map<string, Float32Array>> {
  if (ref === undefined) throw new Error('expected adapters, got none');
  const { tensors } = readSafetensors(await store.get(ref), 'adapters');
  return new Map([...tensors].map(([name, tensor]) => [name, asFloat32(tensor)]));
}

function furthest(a: ArrayLike<number>, b: Float32Array): number {
  return b.reduce((most, value, i) => Math.max(most, Math.abs(value - (a[i] ?? Number.NaN))), 0);
}

/** Largest relative difference. */
function apart(a: readonly number[], b: readonly number[]): number {
  expect(a).toHaveLength(b.length);
  return Math.max(
    ...a.map((value, i) => Math.abs(value - (b[i] ?? 0)) / Math.max(1e-3, Math.abs(b[i] ?? 0))),
  );
}

describe('training on several ranks', () => {
  let two: Curve;

  it('gives the curves of one rank with the whole batch, whoever starts the ranks', async () => {
    const alone = await start({});
    const whole = curve(await alone.train(await tinyTraining(store, 'whole', { steps })));
    const halves = curve(
      await alone.train(await tinyTraining(store, 'halves', { steps, gradientAccumulation: 2 })),
    );
    const ratios = curve(
      await alone.train(await tinyTraining(store, 'ratios', { steps }, { bucketed: true })),
    );
    const adapters = curve(
      await alone.train(await tinyTraining(store, 'adapters', { steps, lora })),
    );
    await alone.stop();
    const pair = await start({ SPINDLE_RANKS: '2' });
    two = curve(await pair.train(await tinyTraining(store, 'two', { steps })));
    const twoRatios = curve(
      await pair.train(
        await tinyTraining(
          store,
          'two-ratios',
          { steps, gradientAccumulation: 2 },
          { bucketed: true },
        ),
      ),
    );
    const twoAdapters = curve(
      await pair.train(await tinyTraining(store, 'two-adapters', { steps, lora })),
    );
    await pair.stop();
    // As a cluster does: every rank is told who it is.
    const port = await freePortPair();
    const rendezvous = { SPINDLE_WORLD_SIZE: '2', SPINDLE_RENDEZVOUS: `127.0.0.1:${port}` };
    const [leader, member] = await Promise.all([
      start({
        ...rendezvous,
        SPINDLE_RANK: '0',
        SPINDLE_GRPC_ADDRESS: rendezvous.SPINDLE_RENDEZVOUS,
      }),
      start({ ...rendezvous, SPINDLE_RANK: '1' }),
    ]);
    const cluster = curve(await leader.train(await tinyTraining(store, 'cluster', { steps })));
    expect(member.child.running).toBe(true);
    for (const [other, same] of [
      [halves, whole],
      [two, whole],
      [cluster, whole],
      // Images of several aspect ratios, in more micro-batches.
      [twoRatios, ratios],
      // Gradients of adapters alone.
      [twoAdapters, adapters],
    ] as const) {
      expect(other.loss).toHaveLength(steps);
      expect(apart(other.loss, same.loss)).toBeLessThan(1e-3);
      expect(apart(other.gradNorm, same.gradNorm)).toBeLessThan(1e-3);
      expect(apart(other.errorReal, same.errorReal)).toBeLessThan(1e-4);
      expect(other.accuracy).toEqual(same.accuracy);
    }
    expect(adapters.loss[steps - 1]).not.toBe(whole.loss[steps - 1]);
    const [one, both] = [await tensorsOf(adapters.adapter), await tensorsOf(twoAdapters.adapter)];
    expect([...both.keys()]).toEqual([...one.keys()]);
    expect([...one.keys()]).toContainEqual(
      expect.stringMatching(/^unet\..*\.attn1\.to_q\.lora_A\.weight$/),
    );
    for (const [name, values] of one)
      expect(furthest(both.get(name) ?? [], values), name).toBeLessThan(1e-5);
    expect(ratios.errorReal).not.toEqual(whole.errorReal);
    expect(whole.loss[0]).not.toBe(whole.loss[steps - 1]);
    expect(cluster.weights).toBe(two.weights);
  });

  it('goes on after a rank was killed, and in parts, to the same weights', async () => {
    const trainer = await start({ SPINDLE_RANKS: '2' });
    let victim = 0;
    const responses = await trainer.train(
      await tinyTraining(store, 'killed', { steps }),
      (step) => {
        if (step !== 3 || victim !== 0) return;
        victim = trainer.children()[0] ?? 0;
        process.kill(victim, 'SIGKILL');
      },
    );
    const killed = curve(responses);
    expect(killed.resumed).toHaveLength(2);
    expect(killed.resumed[1]).toBeGreaterThanOrEqual(3);
    expect(killed.weights).toBe(two.weights);
    expect(trainer.children()).not.toContain(victim);
    expect(trainer.child.stderr).toContain('rank 1 of 2 ended (killed by SIGKILL)');

    const first = await tinyTraining(store, 'part', { steps });
    const left = (await trainer.train({ ...first, lastStep: 3 })).at(-1)?.event;
    if (left?.case !== 'finished') throw new Error('not finished');
    const { state: continued } = left.value;
    const rest = { ...(await tinyTraining(store, 'rest', { steps })), firstStep: 3 };
    const parts = curve(await trainer.train({ ...rest, ...(continued && { continued }) }));
    expect(parts.resumed).toEqual([3]);
    expect(parts.weights).toBe(two.weights);
  });

  it('is cancelled and taken up again by another number of ranks, with the same samples', async () => {
    const trainer = await start({ SPINDLE_RANKS: '2' });
    const request = await tinyTraining(store, 'cancelled', { steps });
    const first = curve(await trainer.train(request, (step, stop) => step === 2 && stop()));
    expect(first.weights).toBe('');
    await trainer.stop();
    const alone = await start({});
    const rest = curve(await alone.train(request));
    expect(rest.resumed[0]).toBeGreaterThanOrEqual(2);
    expect(apart(rest.loss, two.loss.slice(rest.resumed[0]))).toBeLessThan(1e-3);
  });

  it('leaves no process behind when rank 0 is killed, and says when there are fewer pairs than ranks', async () => {
    const trainer = await start({ SPINDLE_RANKS: '3' });
    const children = await until(
      'the ranks',
      () => trainer.children().length === 2 && trainer.children(),
    );
    const request = await tinyTraining(store, 'small', { steps });
    if (request.settings !== undefined) request.settings.batchSize = 2;
    await expect(trainer.train(request)).rejects.toThrow(
      'settings.batch_size: expected at least one element for each of 3 ranks, got 2',
    );
    await trainer.stop('SIGKILL');
    await until('the end of the ranks', () => children.every((pid) => !existsSync(`/proc/${pid}`)));
  });
});
