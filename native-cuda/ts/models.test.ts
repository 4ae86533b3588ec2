import { expect, it } from 'vitest';
import { Engine } from './engine.js';
import { EngineError, toEngineError } from './errors.js';
import { loadAddon } from './loader.js';
import type { NativeAddon } from './native.js';
import type { UnetHandle } from './native-models.js';
import type { SampleRequestDto, SampleResultDto } from './native-sampling.js';
import type { CancelHandle } from './native-values.js';

interface Cancel {
  cancelled: () => void;
}

/** An addon whose sample() runs until it is cancelled. */
function fakeAddon(overrides: Partial<NativeAddon> = {}): {
  addon: NativeAddon;
  released: object[];
} {
  const released: object[] = [];
  const addon: Partial<NativeAddon> = {
    createEngine: () => ({}) as never,
    engineInfo: () => ({
      version: '1',
      backend: 'cpu',
      isa: 'avx2',
      threads: 1,
      cpu: 'x',
      backends: ['cpu'],
    }),
    createCancel: () => ({ cancelled: () => undefined }) as unknown as CancelHandle,
    cancel: (handle) => (handle as unknown as Cancel).cancelled(),
    release: (handle) => released.push(handle),
    loadUnet: async () => ({ name: 'unet' }) as unknown as UnetHandle,
    sample: (_unet, _request, cancel) =>
      new Promise<SampleResultDto>((_resolve, reject) => {
        (cancel as unknown as Cancel).cancelled = () =>
          reject(Object.assign(new Error('stopped after step 3'), { code: 'CANCELLED' }));
      }),
    ...overrides,
  };
  return { addon: addon as NativeAddon, released };
}

it('turns an abort into a cancelled engine call and frees the cancel handle', async () => {
  const { addon, released } = fakeAddon();
  const unet = await Engine.open({ addon }).loadUnet(
    { config: '{}', weights: [], label: 'x' },
    'float32',
  );
  const controller = new AbortController();
  const call = unet.sample({} as SampleRequestDto, { signal: controller.signal });
  controller.abort();
  await expect(call).rejects.toMatchObject({
    name: 'EngineError',
    code: 'CANCELLED',
    message: 'stopped after step 3',
  });
  expect(released).toHaveLength(1);
  await expect(
    unet.sample({} as SampleRequestDto, { signal: controller.signal }),
  ).rejects.toMatchObject({ code: 'CANCELLED' });
  unet.release();
  unet.release();
  expect(released).toHaveLength(2);
});

it('gives what the addon throws a code', async () => {
  const { addon } = fakeAddon({
    loadUnet: () => Promise.reject(new Error('boom')),
    initialNoise: () => {
      throw Object.assign(new Error('count: expected a positive number'), {
        code: 'INVALID_ARGUMENT',
      });
    },
  });
  const engine = Engine.open({ addon });
  await expect(
    engine.loadUnet({ config: '{}', weights: [], label: 'x' }, 'float32'),
  ).rejects.toMatchObject({
    code: 'INTERNAL',
    message: 'boom',
  });
  expect(() => engine.initialNoise(1n, -1)).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error,
  );
  expect(toEngineError(Object.assign(new Error('write'), { code: 'ENOSPC' })).code).toBe(
    'RESOURCE_EXHAUSTED',
  );
  expect(toEngineError('text').message).toBe('text');
});

it('says how to build a missing addon', () => {
  expect(() => loadAddon('/nowhere/spindle.node')).toThrow(EngineError);
  expect(() => loadAddon('/nowhere/spindle.node')).toThrow(
    /\/nowhere\/spindle\.node: expected the native engine, got no such file; run `npm run build`/,
  );
});
