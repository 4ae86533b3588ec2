/** All that is served over HTTP. Every request has passed the door before it comes here. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { SpindleError } from '@spindle/kit';
import type { RunDriver } from '../orchestrator/driver.js';
import type { Orchestrator } from '../orchestrator/orchestrator.js';
import type { RunApi } from '../server/run-service.js';
import { streamEvents } from './events.js';
import { listImages, sendImage } from './images.js';
import { pagePaths, servePage } from './page.js';
import type { LiveViews } from './live-views.js';
import { sendJson, sendTagged } from './send.js';
import { runDetails } from './views.js';

export interface Served {
  orchestrator: Orchestrator;
  api: RunApi;
  live: LiveViews;
}

interface Call extends Served {
  request: IncomingMessage;
  response: ServerResponse;
  /** What stands in place of each ":name" of the path. */
  parts: string[];
}

interface Route {
  path: string;
  answer: (call: Call) => void | Promise<void>;
}

const ofRun =
  (answer: (driver: RunDriver, call: Call) => void | Promise<void>): Route['answer'] =>
  (call) =>
    answer(call.orchestrator.get(call.parts[0] ?? ''), call);

/** Tests walk this list. */
export const routes: readonly Route[] = [
  ...pagePaths.map((path) => ({
    path,
    answer: ({ response }: Call) => servePage(response, path),
  })),
  {
    path: '/api/workers',
    answer: async ({ response, live }) => sendJson(response, await live.workers()),
  },
  {
    path: '/api/runs',
    answer: ({ request, response, api }) => sendTagged(request, response, api.list.json()),
  },
  {
    path: '/api/runs/:run',
    answer: ofRun(async (driver, { response, api, live }) =>
      sendJson(response, await runDetails(driver, api, live)),
    ),
  },
  {
    path: '/api/runs/:run/events',
    answer: ofRun((driver, { request, response, ...served }) =>
      streamEvents(request, response, driver.record.runId, served),
    ),
  },
  {
    path: '/api/runs/:run/images',
    answer: ofRun(async (driver, { response }) => sendJson(response, await listImages(driver))),
  },
  {
    path: '/api/runs/:run/images/:model/:file',
    answer: ofRun((driver, { response, parts: [, ...image] }) =>
      sendImage(response, driver, image),
    ),
  },
];

/** Throws NOT_FOUND where nothing is served. */
export async function answer(pathname: string, call: Omit<Call, 'parts'>): Promise<void> {
  const given = split(pathname).map(decode);
  for (const route of routes) {
    const wanted = split(route.path);
    if (wanted.length !== given.length) continue;
    if (!wanted.every((part, i) => part.startsWith(':') || part === given[i])) continue;
    await route.answer({ ...call, parts: given.filter((_, i) => wanted[i]?.startsWith(':')) });
    return;
  }
  throw new SpindleError('NOT_FOUND', `${pathname}: there is nothing here.`);
}

function split(path: string): string[] {
  return path.split('/').filter((part) => part !== '');
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `address: expected percent-encoded UTF-8, got "${part}".`,
    );
  }
}
