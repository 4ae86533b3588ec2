import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root } from '../harness/child.js';
import { cli } from '../harness/cli.js';
import { OtlpReceiver, type Span } from '../harness/otlp.js';
import { UpMesh } from '../harness/up.js';

describe('telemetry', () => {
  let receiver: OtlpReceiver;
  let spans: Span[];

  beforeAll(async () => {
    receiver = await OtlpReceiver.start();
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url };
    const mesh = await UpMesh.start([], env);
    try {
      const args = [
        'run',
        join(root, 'examples/scenes/tiny-run.yaml'),
        '--run-id',
        'traced',
        '--artifacts',
        mesh.artifacts,
      ];
      const run = await cli(args, { env });
      expect(run.stderr).toBe('');
      expect((await mesh.spindle('watch', 'traced')).code).toBe(0);
    } finally {
      // What is left in the processes is sent when they end.
      await mesh.remove();
    }
    const start = receiver.spans.find(
      ({ service, name }) => service.includes('cli') && name === 'spindle run',
    );
    spans = receiver.spans.filter(({ traceId }) => traceId === start?.traceId);
  });
  afterAll(() => receiver.stop());

  it('is one trace from the command line through every service', () => {
    const services = [
      ...new Set(spans.map(({ service }) => service.replace(/^spindle-/, ''))),
    ].sort();
    expect(services).toEqual(['cli', 'evaluator', 'gateway', 'sampler', 'scorer', 'trainer']);
  });

  it('reaches down to the phases of the engine', () => {
    const names = new Set(spans.map(({ name }) => name));
    for (const phase of [
      'text_encode',
      'unet_steps',
      'vae_decode',
      'forward',
      'backward',
      'optimizer',
    ])
      expect([...names]).toContain(phase);
  });

  it('has a parent in the same trace for every span but the first', () => {
    const ids = new Set(spans.map(({ spanId }) => spanId));
    const orphans = spans.filter(
      ({ parentSpanId }) => parentSpanId !== '' && !ids.has(parentSpanId),
    );
    expect(orphans.map(({ service, name }) => `${service} ${name}`)).toEqual([]);
    expect(spans.filter(({ parentSpanId }) => parentSpanId === '')).toHaveLength(1);
  });

  it('measures queues, images, pairs and training', () => {
    const names = [...receiver.metrics].join('\n');
    for (const what of [/queue/, /image/, /pair/, /loss/, /accuracy/]) expect(names).toMatch(what);
  });
});
