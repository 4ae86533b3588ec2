/** What a queued run waits for. */
import { progressOf } from '../domain/progress.js';
import type { RunRecord } from '../orchestrator/record.js';

/**
 * "waits for NAME (about 5 min) and 2 more"; empty when nothing is ahead of it. Runs go one at a
 * time, the oldest first.
 */
export function waitsFor(record: RunRecord, others: readonly RunRecord[], now: number): string {
  if (record.state.status !== 'queued') return '';
  const { createdAt } = record.state;
  const isAhead = (other: RunRecord): boolean =>
    other.state.createdAt < createdAt ||
    (other.state.createdAt === createdAt && other.runId < record.runId);
  const running = others.find(({ state }) => state.status === 'running');
  const queued = others
    .filter((other) => other.state.status === 'queued' && isAhead(other))
    .sort((a, b) => a.state.createdAt - b.state.createdAt);
  const [first, ...more] = running === undefined ? queued : [running, ...queued];
  if (first === undefined) return '';
  const { etaSeconds } = progressOf(first.state, now);
  const time = etaSeconds > 0 ? ` (about ${Math.ceil(etaSeconds / 60)} min)` : '';
  return `waits for ${first.runId}${time}${more.length > 0 ? ` and ${more.length} more` : ''}`;
}
