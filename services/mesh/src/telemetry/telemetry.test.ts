import { SamplerService } from '@spindle/proto';
import { context, trace } from '@opentelemetry/api';
import { suppressTracing } from '@opentelemetry/core';
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import {
  createLogger,
  createClient,
  GrpcServer,
  extractContext,
  injectContext,
  inSpan,
  meter,
  nowMs,
  recordPhases,
  startTelemetry,
} from '@spindle/kit';
import { logger } from '@spindle/kit/testing';
import { sampleJob, startTestNats } from '../testing/nats.js';

interface OtlpSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  status?: { code?: number; message?: string };
  attributes: OtlpAttribute[];
}

interface OtlpAttribute {
  key: string;
  value: { stringValue?: string };
}

let receiver: Server;
let endpoint: string;
let requests: string[];
let spans: OtlpSpan[];
/** Of whoever sent spans last. */
let resource: OtlpAttribute[];
let metricNames: string[];

beforeEach(async () => {
  requests = [];
  spans = [];
  resource = [];
  metricNames = [];
  receiver = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      requests.push(request.url ?? '');
      const body = JSON.parse(Buffer.concat(chunks).toString()) as OtlpBody;
      for (const { resource: sender, scopeSpans } of body.resourceSpans ?? []) {
        resource = sender.attributes;
        spans.push(...scopeSpans.flatMap((scope) => scope.spans));
      }
      for (const { scopeMetrics } of body.resourceMetrics ?? [])
        metricNames.push(...scopeMetrics.flatMap((scope) => scope.metrics.map(({ name }) => name)));
      response.end('{}');
    });
  });
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  endpoint = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`;
});

interface OtlpBody {
  resourceSpans?: {
    resource: { attributes: OtlpAttribute[] };
    scopeSpans: { spans: OtlpSpan[] }[];
  }[];
  resourceMetrics?: { scopeMetrics: { metrics: { name: string }[] }[] }[];
}

afterEach(() => void receiver.close());

test('one trace runs from the client through gRPC and the queue to native phases', async () => {
  const telemetry = startTelemetry({ service: 'test', endpoint });
  const nats = await startTestNats();
  const bus = await nats.provisioned();
  const server = new GrpcServer({ logger });
  server.addService(SamplerService, {
    inspectModel: async () => ({}),
    getWorker: async () => ({}),
    sample: async () => {
      await bus.publishJob(sampleJob('r1/sample-base/0'), 0);
      return {};
    },
  });
  const client = createClient(SamplerService, `127.0.0.1:${await server.listen('127.0.0.1:0')}`);
  const stop = new AbortController();
  let startedAt = 0;
  const consuming = bus.consumeJobs(
    ['sample'],
    async () => {
      startedAt = nowMs();
      recordPhases(
        [
          { name: 'text_encode', startMs: 0, durationMs: 2 },
          { name: 'unet_steps', startMs: 2, durationMs: 30.5 },
        ],
        startedAt,
      );
      stop.abort();
    },
    { workerId: 'w1', signal: stop.signal },
  );
  await inSpan('spindle run', {}, () => client.sample({}));
  await consuming;
  await telemetry.shutdown();
  client.close();
  await server.shutdown(0);
  await nats.close();

  const chain = [
    'spindle run',
    'spindle.v1.SamplerService/Sample',
    'spindle.v1.SamplerService/Sample',
    'send spindle.jobs.sample',
    'process spindle.jobs.sample',
  ];
  let parent: string | undefined;
  for (const name of chain) {
    const span = spans.find(
      (candidate) => candidate.name === name && (candidate.parentSpanId ?? '') === (parent ?? ''),
    );
    expect(span, `${name} below ${parent}`).toBeDefined();
    parent = span?.spanId;
  }
  const phases = spans.filter(({ parentSpanId }) => parentSpanId === parent);
  expect(phases.map(({ name }) => name)).toEqual(['text_encode', 'unet_steps']);
  const ms = (nano: string | undefined): number => Number(BigInt(nano ?? 0) / 1_000n) / 1_000;
  expect(ms(phases[1]?.startTimeUnixNano)).toBeCloseTo(startedAt + 2, 0);
  expect(ms(phases[1]?.endTimeUnixNano) - ms(phases[1]?.startTimeUnixNano)).toBeCloseTo(30.5, 0);
  expect(new Set(spans.map(({ traceId }) => traceId)).size).toBe(1);
});

test('a failed span says why', async () => {
  const telemetry = startTelemetry({ service: 'test', endpoint });
  await expect(
    inSpan('work', {}, async () => {
      throw new Error('no luck');
    }),
  ).rejects.toThrow('no luck');
  await telemetry.shutdown();
  expect(spans[0]).toMatchObject({ name: 'work', status: { code: 2, message: 'no luck' } });
});

test('a call that only looks joins a trace but begins none', async () => {
  const telemetry = startTelemetry({ service: 'test', endpoint });
  const server = new GrpcServer({ logger });
  server.addService(SamplerService, {
    inspectModel: async () => ({}),
    sample: async () => ({}),
    getWorker: async () => ({}),
  });
  const client = createClient(SamplerService, `127.0.0.1:${await server.listen('127.0.0.1:0')}`);
  // As a caller that has no telemetry.
  const untraced = suppressTracing(context.active());
  await context.with(untraced, () => client.getWorker({}));
  await context.with(untraced, () => client.inspectModel({ path: 'x' }));
  await inSpan('look', {}, () => client.getWorker({}));
  client.close();
  await server.shutdown(0);
  await telemetry.shutdown();
  const names = spans.map(({ name }) => name.replace('spindle.v1.SamplerService/', '')).sort();
  expect(names).toEqual(['GetWorker', 'GetWorker', 'InspectModel', 'look']);
});

test('metrics reach the receiver, at the latest on shutdown', async () => {
  const telemetry = startTelemetry({ service: 'test', endpoint });
  meter().createCounter('spindle.sample.images').add(3);
  await telemetry.shutdown();
  expect(metricNames).toContain('spindle.sample.images');
  expect(new Set(requests)).toEqual(new Set(['/v1/metrics']));
});

test('nothing is sent and nothing breaks without an endpoint', async () => {
  const telemetry = startTelemetry({ service: 'test' });
  const carrier: Record<string, string> = {};
  await inSpan('work', {}, async () => {
    injectContext(carrier);
    recordPhases([{ name: 'p', startMs: 0, durationMs: 1 }], nowMs());
  });
  meter().createCounter('c').add(1);
  await telemetry.shutdown();
  expect(carrier).toEqual({});
  expect(requests).toEqual([]);
});

test('a process says who it is, and the standard variables of OpenTelemetry win', async () => {
  const sent = async (options: { instance?: string }): Promise<Record<string, unknown>> => {
    const telemetry = startTelemetry({ service: 'test', endpoint, ...options });
    await inSpan('work', {}, async () => undefined);
    await telemetry.shutdown();
    return Object.fromEntries(resource.map(({ key, value }) => [key, value.stringValue]));
  };
  expect(await sent({ instance: 'sampler-0' })).toMatchObject({
    'service.name': 'test',
    'service.namespace': 'spindle',
    'service.instance.id': 'sampler-0',
  });
  const first = await sent({});
  expect(first['service.instance.id']).not.toBe((await sent({}))['service.instance.id']);
  vi.stubEnv('OTEL_SERVICE_NAME', 'painter');
  vi.stubEnv('OTEL_RESOURCE_ATTRIBUTES', 'k8s.pod.name=sampler-1,service.namespace=art');
  expect(await sent({})).toMatchObject({
    'service.name': 'painter',
    'service.namespace': 'art',
    'k8s.pod.name': 'sampler-1',
  });
  vi.unstubAllEnvs();
});

test('a receiver that is gone costs neither an error nor a hang', async () => {
  const telemetry = startTelemetry({
    service: 'test',
    endpoint: 'http://127.0.0.1:1',
  });
  await inSpan('work', {}, async () => undefined);
  await telemetry.shutdown();
});

test('the trace context survives any carrier, and log lines name it', async () => {
  const telemetry = startTelemetry({ service: 'test', endpoint });
  const record: Record<string, string> = {};
  const map = new Map<string, string>();
  const fields = await inSpan('work', {}, async (span) => {
    injectContext(record);
    injectContext(map);
    const [symbol] = Object.getOwnPropertySymbols(createLogger('x')).filter(
      (key) => key.description === 'pino.mixin',
    );
    const mixin = (createLogger('x', { pretty: false }) as unknown as Record<symbol, () => object>)[
      symbol!
    ]!;
    return {
      logged: mixin(),
      expected: { trace_id: span.spanContext().traceId, span_id: span.spanContext().spanId },
    };
  });
  expect(fields.logged).toEqual(fields.expected);
  expect(record['traceparent']).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
  expect(map.get('traceparent')).toBe(record['traceparent']);
  for (const carrier of [record, map]) {
    expect(trace.getSpanContext(extractContext(carrier))?.traceId).toBe(fields.expected.trace_id);
  }
  expect(trace.getSpanContext(extractContext({}))).toBeUndefined();
  expect(context.active()).toBeDefined();
  await telemetry.shutdown();
});
