import { afterAll, beforeAll, expect, it } from 'vitest';
import { Mesh } from '../harness/mesh.js';

let mesh: Mesh;
beforeAll(async () => {
  mesh = await Mesh.start();
});
afterAll(() => mesh.stop());

it('ends in good order when it is told to while NATS is away', async () => {
  await mesh.kill('nats-server');
  const names = ['sampler', 'scorer', 'trainer', 'evaluator', 'gateway'];
  const ended = await Promise.all(
    names.map(async (name) => [name, await mesh.leave(name)] as const),
  );
  // A service that waits for NATS is killed after 15 s by the harness, and says SIGKILL here.
  expect(Object.fromEntries(ended)).toEqual(Object.fromEntries(names.map((name) => [name, 0])));
});
