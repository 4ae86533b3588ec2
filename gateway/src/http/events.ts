/**
 * Server-sent events: "run" with the whole run after changes, "step" per optimiser step, "workers"
 * now and then.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { RunNews } from '../orchestrator/news-feed.js';
import type { Served } from './routes.js';

/** The run is sent at most this often; a page cannot be read faster. */
const runEveryMs = 500;
const workersEveryMs = 3_000;

export function streamEvents(
  request: IncomingMessage,
  response: ServerResponse,
  runId: string,
  { orchestrator, live }: Pick<Served, 'orchestrator' | 'live'>,
): void {
  response.writeHead(200, {
    'Content-Type': 'text/event-stream; charset=utf-8',
    'Cache-Control': 'no-store',
    Connection: 'keep-alive',
  });
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  const send = (event: string, json: string): void => {
    // A reader that does not keep up misses news, not the state: the next "run" has it all.
    if (!response.destroyed && !response.writableNeedDrain)
      response.write(`event: ${event}\ndata: ${json}\n\n`);
  };
  const sendRun = (): void => {
    // Without the lease there is no driver, and nothing new to tell.
    if (orchestrator.drives(runId)) send('run', live.runJson(orchestrator.get(runId).record));
  };
  let changed = true;
  const onNews = ({ record, announcements }: RunNews): void => {
    if (record.runId !== runId) return;
    changed = true;
    for (const news of announcements)
      if (news.type === 'train-step')
        send('step', JSON.stringify({ model: news.model, ...news.metrics }));
  };
  // Of all runs: a driver ends with the lease, and another one comes back with it.
  orchestrator.news.on('news', onNews);
  let tick = 0;
  const timer = setInterval(() => {
    tick += 1;
    // Rates and remaining times move even when nothing is finished.
    if (changed || tick % 4 === 0) {
      changed = false;
      sendRun();
    }
    if (tick % Math.round(workersEveryMs / runEveryMs) === 0)
      void live.workers().then((value) => send('workers', JSON.stringify(value)));
  }, runEveryMs);
  sendRun();
  // A reader that went away in the middle of a line is no failure of ours.
  response.on('error', () => undefined);
  response.on('close', () => {
    clearInterval(timer);
    orchestrator.news.off('news', onNews);
  });
}
