/** Waits until no worker is at work for a run that is to be deleted. */
import { delay, SpindleError } from '@spindle/kit';
import type { Bus } from '@spindle/mesh';
import { z } from 'zod';

/** Heartbeats come every five seconds. */
const standardPatienceMs = 8_000;
const pollMs = 250;

const heartbeatSchema = z.object({ worker: z.string(), job: z.string() });

/** FAILED_PRECONDITION names a worker that stays at it, and the job in its hand. */
export async function workersLeave(
  runId: string,
  bus: Pick<Bus, 'kv'>,
  patienceMs = standardPatienceMs,
): Promise<void> {
  const since = performance.now();
  for (;;) {
    const busy = await workerOf(runId, bus);
    if (busy === null) return;
    if (performance.now() - since > patienceMs)
      throw new SpindleError(
        'FAILED_PRECONDITION',
        `run "${runId}" cannot be deleted yet: worker ${busy.worker} is still at ${busy.job}; ` +
          'try again once it has ended.',
      );
    await delay(pollMs);
  }
}

async function workerOf(
  runId: string,
  bus: Pick<Bus, 'kv'>,
): Promise<{ worker: string; job: string } | null> {
  const kv = bus.kv('workers');
  for (const key of await kv.keys()) {
    const heartbeat = heartbeatSchema.safeParse(parse((await kv.get(key))?.value));
    if (heartbeat.success && heartbeat.data.job.startsWith(`${runId}/`)) return heartbeat.data;
  }
  return null;
}

/** A heartbeat in another format says nothing of its job. */
function parse(json: string | undefined): unknown {
  try {
    return JSON.parse(json ?? '');
  } catch {
    return null;
  }
}
