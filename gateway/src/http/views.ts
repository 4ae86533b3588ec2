/** JSON of the status page. Field names are those of the protobuf messages in JSON. */
import { toJson } from '@bufbuild/protobuf';
import { RunSchema } from '@spindle/proto';
import type { Bus } from '@spindle/mesh';
import type { RunDriver } from '../orchestrator/driver.js';
import type { MetricsLine } from '../orchestrator/metrics-log.js';
import type { RunRecord } from '../orchestrator/record.js';
import type { RunApi } from '../server/run-service.js';

/** More points than a plot has pixels say nothing more. */
const maxPoints = 1_000;

export function runJson(record: RunRecord, api: RunApi): unknown {
  return toJson(RunSchema, api.view(record), { alwaysEmitImplicit: true });
}

export async function runDetails(
  driver: RunDriver,
  api: RunApi,
  live: { workers(): Promise<Workers> },
): Promise<unknown> {
  return {
    run: runJson(driver.record, api),
    training: Object.fromEntries(
      Object.entries(driver.metrics.curves()).map(([model, lines]) => [model, thin(lines)]),
    ),
    ...(await live.workers()),
  };
}

export interface Workers {
  workers: unknown[];
  queues: unknown;
}

/** Who is there, and what waits for them; empty while the bus cannot be reached. */
export async function workers(bus: Bus): Promise<Workers> {
  try {
    const kv = bus.kv('workers');
    const entries = await Promise.all(
      (await kv.keys()).map(async (key) => ({ key, entry: await kv.get(key) })),
    );
    const list = entries.flatMap(({ key, entry }) =>
      entry ? [{ key, ...parseObject(entry.value) }] : [],
    );
    return { workers: list, queues: await bus.queueDepths() };
  } catch {
    return { workers: [], queues: null };
  }
}

function parseObject(json: string): object {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    // A heartbeat in another format still says that the worker is there.
    return {};
  }
}

/** Every n-th step, and always the last one. */
function thin(lines: MetricsLine[]): MetricsLine[] {
  const every = Math.ceil(lines.length / maxPoints);
  return lines.filter((_, i) => i % every === 0 || i === lines.length - 1);
}
