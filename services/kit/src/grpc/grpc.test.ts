import { create, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { SamplerService, SampleRequestSchema, TrainerService } from '@spindle/proto';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { SpindleError } from '../errors.js';
import { logger } from '../testing/logger.js';
import { newToken } from '../token.js';
import { checkHealth, createClient } from './client.js';
import type { ServiceHandlers } from './handlers.js';
import { GrpcServer } from './server.js';

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const worker = { workerId: 'w1', backend: 'cpu', jobsDone: 2n ** 63n };

async function serve(
  sampler: Partial<ServiceHandlers<typeof SamplerService>>,
  train?: ServiceHandlers<typeof TrainerService>['train'],
): Promise<{ server: GrpcServer; address: string }> {
  const server = new GrpcServer({ logger });
  server.addService(SamplerService, {
    inspectModel: async () => ({}),
    sample: async () => ({}),
    getWorker: async () => worker,
    ...sampler,
  });
  if (train) server.addService(TrainerService, { train });
  const address = `127.0.0.1:${await server.listen('127.0.0.1:0')}`;
  cleanups.push(() => server.shutdown(0));
  return { server, address };
}

function samplerAt(address: string): ReturnType<typeof createClient<typeof SamplerService>> {
  const client = createClient(SamplerService, address);
  cleanups.push(() => client.close());
  return client;
}

function trainerAt(address: string): ReturnType<typeof createClient<typeof TrainerService>> {
  const client = createClient(TrainerService, address);
  cleanups.push(() => client.close());
  return client;
}

test('a unary call carries its request there and its response back', async () => {
  let seen = 0n;
  const { address } = await serve({
    sample: async (request) => {
      seen = request.items[0]?.seed ?? 0n;
      return { images: [{ digest: 'sha256:x', bytes: 7n }] };
    },
  });
  const client = samplerAt(address);
  const response = await client.sample({ items: [{ prompt: 'p', seed: 2n ** 64n - 1n }] });
  expect(seen).toBe(2n ** 64n - 1n);
  expect(response.images[0]).toMatchObject({ digest: 'sha256:x', bytes: 7n });
  expect(await client.getWorker({})).toMatchObject(worker);
});

test('a server with a token answers only calls that show it, and health', async () => {
  const token = newToken();
  let seen: unknown;
  const server = new GrpcServer({ logger, token });
  server.addService(SamplerService, {
    inspectModel: async () => ({}),
    sample: async () => ({}),
    getWorker: async (_request, { metadata }) => {
      seen = metadata.get('authorization');
      return worker;
    },
  });
  server.addService(TrainerService, {
    train: async function* () {
      yield {};
    },
  });
  const address = `127.0.0.1:${await server.listen('127.0.0.1:0')}`;
  cleanups.push(() => server.shutdown(0));
  for (const [shown, said] of [
    [undefined, 'got none'],
    [newToken(), 'got another one'],
  ] as const) {
    const refused = {
      code: 'UNAUTHENTICATED',
      retryable: false,
      message: expect.stringContaining(`expected the mesh's token, ${said}`) as string,
    };
    const sampler = createClient(SamplerService, address, shown);
    const trainer = createClient(TrainerService, address, shown);
    cleanups.push(sampler.close, trainer.close);
    await expect(sampler.getWorker({})).rejects.toMatchObject(refused);
    const stream = trainer.train({})[Symbol.asyncIterator]();
    await expect(stream.next()).rejects.toMatchObject(refused);
  }
  expect(seen).toBeUndefined();
  const sampler = createClient(SamplerService, address, token);
  const trainer = createClient(TrainerService, address, token);
  cleanups.push(sampler.close, trainer.close);
  expect(await sampler.getWorker({})).toMatchObject(worker);
  expect(seen).toEqual([]);
  let messages = 0;
  for await (const _ of trainer.train({})) messages += 1;
  expect(messages).toBe(1);
  expect(await checkHealth(address, 2_000)).toBe(true);
});

test('an error arrives as it was thrown', async () => {
  const { address } = await serve({
    sample: async () => {
      throw new SpindleError('DIVERGED', 'loss is NaN at step 7 — ü', { retryable: true });
    },
    inspectModel: async () => {
      throw new TypeError('a bug');
    },
  });
  const client = samplerAt(address);
  await expect(client.sample({})).rejects.toMatchObject({
    name: 'SpindleError',
    code: 'DIVERGED',
    message: 'loss is NaN at step 7 — ü',
    retryable: true,
  });
  await expect(client.inspectModel({})).rejects.toMatchObject({
    code: 'INTERNAL',
    message: 'a bug',
  });
});

test('a server that is not there is named', async () => {
  await expect(samplerAt('127.0.0.1:1').getWorker({})).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: expect.stringContaining(
      'spindle.v1.SamplerService/GetWorker at 127.0.0.1:1',
    ) as string,
  });
});

test('cancelling a call rejects it and aborts the handler', async () => {
  let reason: unknown;
  const started = withResolvers();
  const { address } = await serve({
    sample: (_request, { signal }) =>
      new Promise((_, reject) => {
        started.resolve(undefined);
        signal.addEventListener('abort', () => {
          reason = signal.reason;
          reject(signal.reason as Error);
        });
      }),
  });
  const controller = new AbortController();
  const call = samplerAt(address).sample({}, { signal: controller.signal });
  call.catch(() => undefined);
  await started.promise;
  controller.abort();
  await expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
  await expect
    .poll(() => reason)
    .toMatchObject({ code: 'CANCELLED', message: 'the caller cancelled the call' });
});

test('a deadline reaches the handler and ends the call', async () => {
  let deadline: Date | undefined;
  let reason: unknown;
  const { address } = await serve({
    sample: (_request, context) => {
      deadline = context.deadline;
      return new Promise((_, reject) =>
        context.signal.addEventListener('abort', () => {
          reason = context.signal.reason;
          reject(context.signal.reason as Error);
        }),
      );
    },
  });
  const before = Date.now();
  await expect(samplerAt(address).sample({}, { timeoutMs: 200 })).rejects.toMatchObject({
    code: 'DEADLINE_EXCEEDED',
  });
  expect(deadline?.getTime()).toBeGreaterThan(before);
  expect(deadline?.getTime()).toBeLessThan(before + 1_000);
  await expect.poll(() => reason).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
});

test('a stream arrives in order and ends', async () => {
  const { address } = await serve({}, async function* ({ settings }) {
    for (let step = 1; step <= (settings?.steps ?? 0); step++)
      yield { event: { case: 'step', value: { step } } };
  });
  const steps: number[] = [];
  for await (const { event } of trainerAt(address).train({ settings: { steps: 500 } })) {
    if (event.case === 'step') steps.push(event.value.step);
  }
  expect(steps).toEqual(Array.from({ length: 500 }, (_, i) => i + 1));
});

test('an error in the middle of a stream comes after what was sent before it', async () => {
  const { address } = await serve({}, async function* () {
    yield { event: { case: 'started', value: {} } };
    throw new SpindleError('DIVERGED', 'NaN');
  });
  const seen: (string | undefined)[] = [];
  const reading = (async () => {
    for await (const { event } of trainerAt(address).train({})) seen.push(event.case);
  })();
  await expect(reading).rejects.toMatchObject({ code: 'DIVERGED', message: 'NaN' });
  expect(seen).toEqual(['started']);
});

test('leaving a stream early stops the handler, and a slow reader holds it back', async () => {
  let made = 0;
  let ended = false;
  const filler = 'x'.repeat(100_000);
  const { address } = await serve({}, async function* () {
    try {
      for (;;) {
        made++;
        yield { event: { case: 'started', value: { precisionReason: filler } } };
      }
    } finally {
      ended = true;
    }
  });
  let read = 0;
  for await (const _ of trainerAt(address).train({})) {
    if (++read === 3) break;
  }
  await expect.poll(() => ended).toBe(true);
  expect(made).toBeLessThan(200);
});

test('a message of several megabytes passes', async () => {
  const { address } = await serve({
    sample: async ({ items }) => ({ images: [{ mediaType: items[0]?.prompt ?? '' }] }),
  });
  const prompt = 'x'.repeat(10 << 20);
  const response = await samplerAt(address).sample({ items: [{ prompt }] });
  expect(response.images[0]?.mediaType).toHaveLength(prompt.length);
});

test('health follows what the process says of itself', async () => {
  const { server, address } = await serve({});
  expect(await checkHealth(address, 2_000)).toBe(true);
  expect(await checkHealth(address, 2_000, SamplerService.typeName)).toBe(true);
  server.setServing(SamplerService.typeName, false);
  expect(await checkHealth(address, 2_000, SamplerService.typeName)).toBe(false);
  expect(await checkHealth(address, 2_000)).toBe(true);
  expect(await checkHealth(address, 2_000, 'no.such.Service')).toBe(false);
  expect(await checkHealth('127.0.0.1:1', 500)).toBe(false);
});

test('reflection lists the services and describes their messages', async () => {
  const { address } = await serve({}, async function* () {});
  const folder = dirname(createRequire(import.meta.url).resolve('@grpc/reflection/package.json'));
  const definition = loadSync('reflection/v1/reflection.proto', {
    includeDirs: [join(folder, 'build/proto/grpc'), join(folder, 'proto/grpc'), folder],
  });
  const { ServerReflection } = (
    grpc.loadPackageDefinition(definition)['grpc'] as unknown as ReflectionPackage
  ).reflection.v1;
  const client = new ServerReflection(address, grpc.credentials.createInsecure());
  cleanups.push(() => client.close());
  const ask = (request: object): Promise<ReflectionAnswer> =>
    new Promise((resolve, reject) => {
      const stream = client.ServerReflectionInfo();
      stream.on('data', (answer: ReflectionAnswer) => {
        resolve(answer);
        stream.end();
      });
      stream.on('error', reject);
      stream.write(request);
    });
  const { listServicesResponse } = await ask({ listServices: '' });
  expect(listServicesResponse?.service.map(({ name }) => name).sort()).toEqual([
    'grpc.health.v1.Health',
    'spindle.v1.SamplerService',
    'spindle.v1.TrainerService',
  ]);
  const { fileDescriptorResponse } = await ask({
    fileContainingSymbol: 'spindle.v1.SampleRequest',
  });
  const files =
    fileDescriptorResponse?.fileDescriptorProto.map((bytes) =>
      fromBinary(FileDescriptorProtoSchema, bytes),
    ) ?? [];
  expect(files.some((file) => file.messageType.some(({ name }) => name === 'SampleRequest'))).toBe(
    true,
  );
});

interface ReflectionAnswer {
  listServicesResponse?: { service: { name: string }[] };
  fileDescriptorResponse?: { fileDescriptorProto: Buffer[] };
}
interface ReflectionPackage {
  reflection: {
    v1: {
      ServerReflection: new (
        address: string,
        credentials: grpc.ChannelCredentials,
      ) => ReflectionClient;
    };
  };
}
interface ReflectionClient {
  ServerReflectionInfo(): grpc.ClientDuplexStream<object, ReflectionAnswer>;
  close(): void;
}

test('shutting down lets a call under way finish and takes no new one', async () => {
  const release = withResolvers();
  let started = false;
  const { server, address } = await serve({
    sample: async () => {
      started = true;
      await release.promise;
      return {};
    },
  });
  const call = samplerAt(address).sample({});
  await expect.poll(() => started).toBe(true);
  const stopping = server.shutdown(10_000);
  await expect(samplerAt(address).getWorker({}, { timeoutMs: 1_000 })).rejects.toMatchObject({
    code: 'UNAVAILABLE',
  });
  release.resolve(undefined);
  await expect(call).resolves.toBeDefined();
  await stopping;
});

test('shutting down ends a call that does not finish in time', async () => {
  let reason: unknown;
  let started = false;
  const { server, address } = await serve({}, async function* (_request, { signal }) {
    started = true;
    yield { event: { case: 'started', value: {} } };
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    reason = signal.reason;
    throw signal.reason;
  });
  const reading = (async () => {
    for await (const _ of trainerAt(address).train({})) continue;
  })();
  reading.catch(() => undefined);
  await expect.poll(() => started).toBe(true);
  await server.shutdown(20);
  await expect(reading).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: expect.stringContaining('the server is shutting down') as string,
  });
  await expect
    .poll(() => reason)
    .toMatchObject({ code: 'UNAVAILABLE', message: 'the server is shutting down' });
});

test('a port in use is one clear sentence', async () => {
  const { address } = await serve({});
  const second = new GrpcServer({ logger });
  await expect(second.listen(address)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringContaining(address) as string,
  });
});

test('a request may be a message or its plain fields', async () => {
  const { address } = await serve({
    sample: async ({ pipelinePath }) => ({ images: [{ digest: pipelinePath }] }),
  });
  const response = await samplerAt(address).sample(
    create(SampleRequestSchema, { pipelinePath: '/models/x' }),
  );
  expect(response.images[0]?.digest).toBe('/models/x');
});

function withResolvers(): { promise: Promise<unknown>; resolve: (value: unknown) => void } {
  let resolve: (value: unknown) => void = () => undefined;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}
