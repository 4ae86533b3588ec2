/**
 * The gateway's metrics; without an OTLP endpoint they cost nothing. Those of training are the
 * trainer's.
 */
import { meter } from '@spindle/kit';
import { type Bus } from '@spindle/mesh';

export function registerInstruments(bus: Bus): { stop(): void } {
  const depth = meter().createObservableGauge('spindle.queue.depth', {
    description: 'Jobs on the queue and in hand, by kind.',
  });
  const observe: Parameters<typeof depth.addCallback>[0] = async (result) => {
    for (const [kind, { pending, inFlight }] of Object.entries(await bus.queueDepths())) {
      result.observe(pending, { 'spindle.job.kind': kind, 'spindle.job.state': 'pending' });
      result.observe(inFlight, { 'spindle.job.kind': kind, 'spindle.job.state': 'in_flight' });
    }
  };
  depth.addCallback(observe);
  return { stop: () => depth.removeCallback(observe) };
}
