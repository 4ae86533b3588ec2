/**
 * What files a run's models were when it began. The first process of a run that loads a model notes
 * its files' digests under "<run>/files/…" in the store; who loads it later, and finds other bytes,
 * says so instead of mixing two models in one run. Files of which stat says the same as then are
 * not read again.
 */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { ensureError, isCode, sha256File, SpindleError } from '@spindle/kit';
import type { ArtifactStore } from './store/store.js';

interface NotedFile {
  file: string;
  /** SHA-256 in hex. */
  digest: string;
  /** What stat said of it, and on which host. */
  seen: string;
}

type Notes = Pick<ArtifactStore, 'getResult' | 'commitResult' | 'deleteResults'>;

/** By what stat says: a file that has not changed is read once per process. */
const known = new Map<string, string>();
const mostKnown = 10_000;

/**
 * What stat says of files, in one word: another word means that one of them may have changed. Empty
 * for no files; those that are not there are named as such.
 */
async function filesNow(files: readonly string[]): Promise<string> {
  return (await Promise.all(files.map(identityOf))).join('\n');
}

/**
 * Notes the files of a run's model, named `part`, or compares them with what was noted:
 * FAILED_PRECONDITION names the one that has changed. Without a run (`runId` is empty) nothing is
 * noted. Returns `filesNow`.
 */
export async function checkRunFiles(
  store: Notes,
  runId: string,
  part: string,
  files: readonly string[],
): Promise<string> {
  const now = await filesNow(files);
  if (runId === '') return now;
  const key = `${runId}/files/${createHash('sha256').update(part).digest('hex').slice(0, 32)}`;
  for (;;) {
    const noted = parse(await store.getResult(key));
    if (noted !== null) {
      await compare(noted, files, part);
      return now;
    }
    // Nothing to be read: whoever loads the model says why.
    if (files.length === 0) return now;
    const note = JSON.stringify({ part, files: await Promise.all(files.map(noteOf)) });
    if ((await store.commitResult(key, note)) === 'committed') return now;
    // Damaged: it would keep every other note out.
    if (parse(await store.getResult(key)) === null) await store.deleteResults(key);
  }
}

/** What `load` gives. ABORTED where the files are not those of `state` (`filesNow`) after it. */
export async function unchanged<T extends { release(): void }>(
  files: readonly string[],
  state: string,
  load: () => Promise<T>,
): Promise<T> {
  const loaded = await load();
  if ((await filesNow(files)) === state) return loaded;
  loaded.release();
  throw new SpindleError('ABORTED', `${files[0] ?? 'a model'}: changed while it was loaded.`);
}

async function compare(
  noted: readonly NotedFile[],
  files: readonly string[],
  part: string,
): Promise<void> {
  const expected = new Map(noted.map((one) => [one.file, one]));
  for (const file of files)
    if (!expected.has(file)) throw changed(file, 'no such file', 'a new one', part);
  for (const { file, digest, seen } of noted) {
    if (!files.includes(file)) throw changed(file, `sha256:${digest}`, 'no such file', part);
    if ((await identityOf(file)) === seen) continue;
    const got = await digestOf(file).catch((thrown: unknown) => {
      if (isCode(thrown, 'ENOENT')) return null;
      throw ensureError(thrown);
    });
    if (got !== digest)
      throw changed(
        file,
        `sha256:${digest}`,
        got === null ? 'no such file' : `sha256:${got}`,
        part,
      );
  }
}

function changed(file: string, expected: string, got: string, part: string): SpindleError {
  return new SpindleError(
    'FAILED_PRECONDITION',
    `${file}: changed since this run first read it (${part}): expected ${expected}, got ${got}; ` +
      'put the file back as it was and resume the run, or start a new run.',
  );
}

async function noteOf(file: string): Promise<NotedFile> {
  const seen = await identityOf(file);
  return { file, digest: await digestOf(file), seen };
}

async function identityOf(file: string): Promise<string> {
  try {
    const { size, mtimeNs, ctimeNs, ino } = await stat(file, { bigint: true });
    return `${hostname()} ${file} ${size} ${mtimeNs} ${ctimeNs} ${ino}`;
  } catch (thrown) {
    if (isCode(thrown, 'ENOENT') || isCode(thrown, 'ENOTDIR')) return `${file} is not there`;
    throw ensureError(thrown);
  }
}

async function digestOf(file: string): Promise<string> {
  const identity = await identityOf(file);
  const digest = known.get(identity) ?? (await sha256File(file));
  if (known.size >= mostKnown) known.clear();
  known.set(identity, digest);
  return digest;
}

/** Null for what is no note. */
function parse(json: string | null): NotedFile[] | null {
  try {
    const { files } = JSON.parse(json ?? '') as { files?: NotedFile[] };
    return Array.isArray(files) && files.every(({ file, digest }) => file && digest) ? files : null;
  } catch {
    return null;
  }
}
