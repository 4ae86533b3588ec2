import { isSpanContextValid, trace } from '@opentelemetry/api';
import { pino } from 'pino';
import { PinoPretty } from 'pino-pretty';
import { printable } from './printable.js';

/** A structured logger; children carry fields of their own. */
export type Logger = pino.Logger;

/**
 * JSON lines on stderr (stdout is for results), with the trace id of the work at hand; readable
 * lines on a terminal.
 */
export function createLogger(
  name: string,
  options: { level?: string; pretty?: boolean } = {},
): Logger {
  const settings: pino.LoggerOptions = {
    name,
    level: options.level ?? 'info',
    base: { pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    mixin: traceFields,
    serializers: { err: pino.stdSerializers.errWithCause },
  };
  const pretty = options.pretty ?? process.stderr.isTTY;
  // In-process and synchronous: a worker thread would lose the last lines of a process that ends.
  return pino(settings, pretty ? prettyLines() : pino.destination({ fd: 2, sync: true }));
}

/** Colours are its own; what strings of a line would say to a terminal is spelled out before. */
function prettyLines(): pino.DestinationStream {
  const stream = PinoPretty({
    destination: 2,
    sync: true,
    colorize: process.stderr.isTTY,
    ignore: 'pid,trace_id,span_id',
    translateTime: 'SYS:HH:MM:ss',
  });
  const spelled = (_key: string, value: unknown): unknown =>
    typeof value === 'string' ? printable(value) : value;
  return {
    write: (line) => void stream.write(`${JSON.stringify(JSON.parse(line), spelled)}\n`),
  };
}

function traceFields(): object {
  const span = trace.getActiveSpan()?.spanContext();
  return span && isSpanContextValid(span) ? { trace_id: span.traceId, span_id: span.spanId } : {};
}
