/** The gateway's metrics; without an OTLP endpoint they cost nothing. */
import { meter, type Bus } from '@spindle/kit';
import { iterationOf } from '../domain/plan.js';
import type { RunNews } from './driver.js';
import type { Orchestrator } from './orchestrator.js';

export function registerInstruments(bus: Bus, orchestrator: Orchestrator): { stop(): void } {
  const loss = meter().createGauge('spindle.train.loss', { description: 'Training loss of the last optimiser step.' });
  const accuracy = meter().createGauge('spindle.train.implicit_accuracy', { description: 'Share of pairs with a positive logit.' });
  const stepSeconds = meter().createHistogram('spindle.train.step.duration', { description: 'Duration of an optimiser step.', unit: 's' });
  const depth = meter().createObservableGauge('spindle.queue.depth', { description: 'Jobs on the queue and in hand, by kind.' });
  const observe: Parameters<typeof depth.addCallback>[0] = async (result) => {
    for (const [kind, { pending, inFlight }] of Object.entries(await bus.queueDepths())) {
      result.observe(pending, { 'spindle.job.kind': kind, 'spindle.job.state': 'pending' });
      result.observe(inFlight, { 'spindle.job.kind': kind, 'spindle.job.state': 'in_flight' });
    }
  };
  const onNews = ({ record, announcements }: RunNews): void => {
    for (const news of announcements) {
      if (news.type !== 'train-step') continue;
      const attributes = { 'spindle.run': record.runId, 'spindle.model': news.model };
      loss.record(news.metrics.loss, attributes);
      // Plain fine-tuning has no opponent to be told from.
      if (iterationOf(news.model) > 0) accuracy.record(news.metrics.implicitAccuracy, attributes);
      stepSeconds.record(news.metrics.seconds, attributes);
    }
  };
  depth.addCallback(observe);
  orchestrator.news.on('news', onNews);
  return {
    stop: () => {
      depth.removeCallback(observe);
      orchestrator.news.off('news', onNews);
    },
  };
}
