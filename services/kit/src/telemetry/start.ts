import { context, metrics, propagation, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-http';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import {
  detectResources,
  envDetector,
  resourceFromAttributes,
  type Resource,
} from '@opentelemetry/resources';
import { MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { version } from '../version.js';

export interface TelemetryOptions {
  service: string;
  /**
   * Base address of an OTLP/HTTP receiver, e.g. "http://127.0.0.1:4318"; nothing is recorded or
   * sent without one.
   */
  endpoint?: string | undefined;
  /** Tells apart the processes of one service, such as a pod's name; default a new UUID. */
  instance?: string;
  /** How often metrics leave; default 10 s. */
  metricsIntervalMs?: number;
}

export interface Telemetry {
  /**
   * Sends what has been recorded. A process calls it before it lets go of what its observable
   * instruments look at.
   */
  flush(): Promise<void>;
  shutdown(): Promise<void>;
}

/**
 * Called once per process, before instruments are created (an instrument made earlier stays a
 * no-op). `shutdown` sends what is left; a receiver that is gone costs a few seconds at most and
 * never an error.
 */
export function startTelemetry(options: TelemetryOptions): Telemetry {
  if (options.endpoint === undefined || options.endpoint === '')
    return { flush: async () => undefined, shutdown: async () => undefined };
  const base = options.endpoint.replace(/\/+$/, '');
  const resource = resourceOf(options);
  const tracers = new BasicTracerProvider({
    resource,
    spanProcessors: [
      new BatchSpanProcessor(
        new OTLPTraceExporter({ url: `${base}/v1/traces`, timeoutMillis: 5_000 }),
        { scheduledDelayMillis: 1_000 },
      ),
    ],
  });
  const meters = new MeterProvider({
    resource,
    readers: [
      new PeriodicExportingMetricReader({
        exporter: new OTLPMetricExporter({ url: `${base}/v1/metrics`, timeoutMillis: 5_000 }),
        exportIntervalMillis: options.metricsIntervalMs ?? 10_000,
        exportTimeoutMillis: 5_000,
      }),
    ],
  });
  const contexts = new AsyncLocalStorageContextManager().enable();
  context.setGlobalContextManager(contexts);
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  trace.setGlobalTracerProvider(tracers);
  metrics.setGlobalMeterProvider(meters);
  return {
    async flush() {
      await Promise.allSettled([tracers.forceFlush(), meters.forceFlush()]);
    },
    async shutdown() {
      // Losing the last spans must not turn a clean exit into a failure.
      await Promise.allSettled([tracers.shutdown(), meters.shutdown()]);
      trace.disable();
      metrics.disable();
      propagation.disable();
      context.disable();
    },
  };
}

/**
 * Who sends. OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win, as in every OpenTelemetry SDK. The
 * process id tells nobody apart where every container's is 1.
 */
function resourceOf({ service, instance }: TelemetryOptions): Resource {
  return resourceFromAttributes({
    'service.name': service,
    'service.namespace': 'spindle',
    'service.version': version,
    'service.instance.id': instance ?? randomUUID(),
    'host.name': hostname(),
    'process.pid': process.pid,
  }).merge(detectResources({ detectors: [envDetector] }));
}
