/** The run that `up --run` goes on with: an earlier start of the same config that has not ended. */
import { isDeepStrictEqual } from 'node:util';
import { RunStatus, type Run } from '@spindle/proto';
import type { RunClient } from './context.js';
import { isOver } from './format.js';

const listPage = 200;

/** The newest one of these very settings. */
export async function findUnfinished(client: RunClient, config: object): Promise<Run | undefined> {
  const wanted = JSON.parse(JSON.stringify(config)) as { name?: unknown };
  for (let pageToken = ''; ; ) {
    const page = await client.listRuns({ pageToken, pageSize: listPage });
    for (const { runId, name } of page.runs.filter((run) => mayGoOn(run))) {
      if (name !== wanted.name) continue;
      const { run } = await client.getRun({ runId });
      if (run && isDeepStrictEqual(JSON.parse(run.configJson), wanted)) return run;
    }
    pageToken = page.nextPageToken;
    if (pageToken === '') return undefined;
  }
}

function mayGoOn(run: Run): boolean {
  return !isOver(run) && run.status !== RunStatus.UNREADABLE;
}

/** "train-sft 9/300, score-base 3/8"; "the beginning" before the first stage. */
export function whereIs({ stages }: Run): string {
  const open = stages.filter(({ state }) => ['running', 'paused', 'stopped'].includes(state));
  const places = open.map(({ stage, done, total }) => `${stage} ${done}/${total}`);
  if (places.length > 0) return places.join(', ');
  return stages.some(({ state }) => state === 'done') ? 'its next stage' : 'its beginning';
}
