/** How people name a run: its id, the beginning of it that no other run has, or "latest". */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureError, SpindleError } from '@spindle/kit';
import type { RunClient } from './context.js';

/** The word for the run that was created last. */
const latest = 'latest';
const listPage = 200;
const maxNamed = 5;

/** Asks the gateway; the server's NOT_FOUND stays the word where nothing fits. */
export async function findRunId(client: RunClient, named: string): Promise<string> {
  const missing = await client.getRun({ runId: named }).then(
    () => null,
    (thrown: unknown) => ensureError(thrown),
  );
  if (missing === null) return named;
  if (missing.code !== 'NOT_FOUND' && missing.code !== 'INVALID_ARGUMENT') throw missing;
  const ids: string[] = [];
  for (let pageToken = ''; ; ) {
    const page = await client.listRuns({ pageToken, pageSize: listPage });
    ids.push(...page.runs.map(({ runId }) => runId));
    pageToken = page.nextPageToken;
    if (pageToken === '') break;
  }
  const found = match(named, ids);
  if (found !== undefined) return found;
  throw missing;
}

/** Without a gateway: run folders are what has a run.json, the latest the one made last. */
export async function findRunFolder(artifacts: string, named: string): Promise<string> {
  const runs: { id: string; born: number }[] = [];
  for (const id of await readdir(artifacts).catch(() => [])) {
    const record = await stat(join(artifacts, id, 'run.json')).catch(() => null);
    // A record is replaced with each change, its folder is not.
    const folder = record && (await stat(join(artifacts, id)).catch(() => null));
    if (folder) runs.push({ id, born: folder.birthtimeMs });
  }
  if (runs.some(({ id }) => id === named)) return named;
  const newestFirst = runs.sort((a, b) => b.born - a.born).map(({ id }) => id);
  return match(named, newestFirst) ?? named;
}

/** Of ids, newest first, the one that is meant; undefined for none. */
function match(named: string, ids: readonly string[]): string | undefined {
  if (named === latest) return ids[0];
  const fitting = named === '' ? [] : ids.filter((id) => id.startsWith(named));
  if (fitting.length <= 1) return fitting[0];
  const shown = fitting.slice(0, maxNamed).join(', ');
  const more = fitting.length > maxNamed ? ` and ${fitting.length - maxNamed} more` : '';
  throw new SpindleError(
    'INVALID_ARGUMENT',
    `run "${named}": expected the beginning of one run's id, got that of ${fitting.length}: ` +
      `${shown}${more}.`,
  );
}
