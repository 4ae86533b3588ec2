import { expect, it } from 'vitest';
import { ModelCache } from './model-cache.js';

function model(name: string, log: string[]): { name: string; release: () => void } {
  log.push(`load ${name}`);
  return { name, release: () => void log.push(`free ${name}`) };
}

it('keeps what was used last and frees the rest', async () => {
  const log: string[] = [];
  const cache = new ModelCache<ReturnType<typeof model>>(2);
  for (const name of ['a', 'b', 'a', 'c'])
    await cache.use(
      name,
      async () => model(name, log),
      async () => undefined,
    );
  await Promise.resolve();
  expect(log).toEqual(['load a', 'load b', 'load c', 'free b']);
  expect(cache.keys()).toEqual(['a', 'c']);
});

it('frees an evicted model only when its last user is done', async () => {
  const log: string[] = [];
  const cache = new ModelCache<ReturnType<typeof model>>(1);
  await cache.use(
    'a',
    async () => model('a', log),
    async () => {
      await cache.use(
        'b',
        async () => model('b', log),
        async () => undefined,
      );
      log.push('a is still in use');
    },
  );
  await Promise.resolve();
  await Promise.resolve();
  expect(log).toEqual(['load a', 'load b', 'a is still in use', 'free a']);
});

it('loads once for two users and forgets a failed load', async () => {
  const log: string[] = [];
  const cache = new ModelCache<ReturnType<typeof model>>(1);
  const load = async (): Promise<ReturnType<typeof model>> => model('a', log);
  await Promise.all([
    cache.use('a', load, async () => undefined),
    cache.use('a', load, async () => undefined),
  ]);
  expect(log).toEqual(['load a']);
  await expect(
    cache.use(
      'x',
      () => Promise.reject(new Error('no')),
      async () => undefined,
    ),
  ).rejects.toThrow('no');
  expect(cache.keys()).toEqual([]);
});
