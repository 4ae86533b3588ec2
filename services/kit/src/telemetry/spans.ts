import {
  context,
  metrics,
  propagation,
  SpanKind,
  SpanStatusCode,
  trace,
  type Attributes,
  type Context,
  type Meter,
  type Span,
  type Tracer,
} from '@opentelemetry/api';
import { ensureError } from '../errors.js';

const scope = 'spindle';

export function tracer(): Tracer {
  return trace.getTracer(scope);
}

/** The meter of this process; instruments made before telemetry starts stay silent. */
export function meter(): Meter {
  return metrics.getMeter(scope);
}

/**
 * Runs `fn` in a new span, a child of `parent` or of the active span; a failure is recorded and
 * thrown on.
 */
export async function inSpan<T>(
  name: string,
  attributes: Attributes,
  fn: (span: Span) => Promise<T>,
  parent: Context = context.active(),
  kind: SpanKind = SpanKind.INTERNAL,
): Promise<T> {
  return tracer().startActiveSpan(name, { attributes, kind }, parent, async (span) => {
    try {
      return await fn(span);
    } catch (error) {
      failSpan(span, error);
      throw error;
    } finally {
      span.end();
    }
  });
}

export function failSpan(span: Span, error: unknown): void {
  const { code, message } = ensureError(error);
  span.setAttribute('error.type', code);
  span.setStatus({ code: SpanStatusCode.ERROR, message });
}

/**
 * Child spans of the active span for phases that native code timed itself; `startedAt` is the
 * engine call's start in epoch ms.
 */
export function recordPhases(
  phases: readonly { name: string; startMs: number; durationMs: number }[],
  startedAt: number,
): void {
  for (const { name, startMs, durationMs } of phases) {
    const start = startedAt + startMs;
    tracer()
      .startSpan(name, { startTime: start })
      .end(start + durationMs);
  }
}

/** Epoch milliseconds on the clock that does not jump: what `recordPhases` wants as `startedAt`. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

export interface WritableCarrier {
  set(key: string, value: string): unknown;
}

export interface ReadableCarrier {
  get(key: string): unknown;
  keys(): Iterable<string>;
}

/** Writes the active trace context (W3C traceparent) into a plain object or anything with `set`. */
export function injectContext(
  carrier: Record<string, string> | WritableCarrier,
  from: Context = context.active(),
): void {
  propagation.inject(from, carrier, {
    set(target, key, value) {
      if (isWritable(target)) target.set(key, value);
      else target[key] = value;
    },
  });
}

/** The trace context that a message or call carries, on top of the active one. */
export function extractContext(carrier: Record<string, string> | ReadableCarrier): Context {
  return propagation.extract(context.active(), carrier, {
    keys: (source) => (isReadable(source) ? [...source.keys()] : Object.keys(source)),
    get(source, key) {
      const value: unknown = isReadable(source) ? source.get(key) : source[key];
      return typeof value === 'string' && value !== '' ? value : undefined;
    },
  });
}

function isWritable(carrier: Record<string, string> | WritableCarrier): carrier is WritableCarrier {
  return typeof carrier.set === 'function';
}

function isReadable(carrier: Record<string, string> | ReadableCarrier): carrier is ReadableCarrier {
  return typeof carrier.get === 'function';
}
