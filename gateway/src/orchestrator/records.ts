/**
 * Where records live: the KV bucket (compare-and-set, so that a gateway that lost its lease cannot
 * overwrite its successor) and artifacts/<run>/run.json, from which a wiped bucket is rebuilt. The
 * newer copy wins.
 */
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  ensureError,
  isCode,
  SpindleError,
  sweepTemporaries,
  writeFileAtomic,
  type Logger,
} from '@spindle/kit';
import { type KvStore } from '@spindle/mesh';
import { parseRecord, serializeRecord, type RunRecord } from './record.js';

const recordFile = 'run.json';
const configFile = 'config.json';

/** A run whose record cannot be believed, and why. */
export interface UnreadableRun {
  runId: string;
  reason: string;
}

export interface LoadedRecords {
  records: RunRecord[];
  unreadable: UnreadableRun[];
}

/** By run id; a run may be in both, with one copy that can be read and one that cannot. */
interface Loaded {
  records: Map<string, RunRecord>;
  failures: Map<string, string>;
  /** Of the copies in files. */
  fileVersions: Map<string, number>;
}

export interface RunRecordsOptions {
  /** Throws ABORTED where another gateway has taken the folder. */
  fence?: () => Promise<void> | undefined;
  write?: (path: string, text: string) => Promise<void>;
  /** How long after a full disk a run's file is tried again. */
  retryMs?: number;
}

export class RunRecords {
  readonly #revisions = new Map<string, number>();
  readonly #kv: KvStore;
  readonly #root: string;
  readonly #logger: Logger;
  readonly #fence: () => Promise<void> | undefined;
  readonly #write: (path: string, text: string) => Promise<void>;
  readonly #retryMs: number;
  /** What stat says of the file that was written last: each write makes a new one. */
  readonly #written = new Map<string, string>();
  /** Newest records whose file could not be written. */
  readonly #owed = new Map<string, RunRecord>();
  #turn: Promise<unknown> = Promise.resolve();
  #retry: NodeJS.Timeout | undefined;

  constructor(kv: KvStore, root: string, logger: Logger, options: RunRecordsOptions = {}) {
    const { fence = () => undefined, write = writeFileAtomic, retryMs = 1_000 } = options;
    this.#kv = kv;
    this.#root = root;
    this.#logger = logger;
    this.#fence = fence;
    this.#write = write;
    this.#retryMs = retryMs;
  }

  directory(runId: string): string {
    return join(this.#root, runId);
  }

  /** Oldest first. One unreadable run keeps no other from going on. */
  async load(): Promise<LoadedRecords> {
    this.#revisions.clear();
    const loaded: Loaded = { records: new Map(), failures: new Map(), fileVersions: new Map() };
    for (const key of await this.#kv.keys()) {
      const entry = await this.#kv.get(key);
      if (!entry) continue;
      this.#revisions.set(key, entry.revision);
      this.#take(loaded, key, entry.value, `run "${key}"`);
    }
    for (const name of await foldersIn(this.#root)) await this.#takeFile(loaded, name);
    await this.#renewFiles(loaded);
    const { records, failures } = loaded;
    return {
      records: [...records.values()].sort((a, b) => a.state.createdAt - b.state.createdAt),
      unreadable: [...failures]
        .filter(([runId]) => !records.has(runId))
        .map(([runId, reason]) => ({ runId, reason })),
    };
  }

  async #takeFile(loaded: Loaded, runId: string): Promise<void> {
    const directory = this.directory(runId);
    const file = join(directory, recordFile);
    try {
      const version = this.#take(loaded, runId, await readFile(file, 'utf8'), file);
      loaded.fileVersions.set(runId, version);
    } catch (thrown) {
      const isGone = isCode(thrown, 'ENOENT');
      if (isGone && !(await isRunFolder(directory))) return;
      const why = isGone
        ? "expected the run's record, got no such file."
        : ensureError(thrown).message;
      loaded.failures.set(runId, `${file}: ${why}`);
    }
    await sweepTemporaries(directory, { depth: 'all' }).catch((error: unknown) =>
      this.#logger.warn({ err: error, run: runId }, 'what is left over could not be removed'),
    );
  }

  /** A file that is damaged, gone or older than the bucket's copy would otherwise stay so. */
  async #renewFiles({ records, fileVersions }: Loaded): Promise<void> {
    for (const [runId, record] of records) {
      const isThere = await stat(this.directory(runId)).catch(() => null);
      if (!isThere || fileVersions.get(runId) === record.version) continue;
      await this.#writeFile(record, serializeRecord(record)).catch((error: unknown) =>
        this.#logger.warn({ err: error, run: runId }, 'the run state could not be written'),
      );
    }
  }

  #take({ records, failures }: Loaded, runId: string, json: string, where: string): number {
    try {
      const record = parseRecord(json, where);
      if (record.runId !== runId)
        throw new SpindleError(
          'FAILED_PRECONDITION',
          `${where}: runId: expected "${runId}", got "${record.runId}".`,
        );
      const known = records.get(runId);
      if (!known || known.version < record.version) records.set(runId, record);
      return record.version;
    } catch (thrown) {
      const error = ensureError(thrown);
      this.#logger.error({ err: error, run: runId }, 'a run record cannot be read');
      failures.set(runId, error.message);
      return 0;
    }
  }

  /**
   * Either the run is stored as a whole, or nothing is. Refuses a folder that is there already: it
   * may hold anything.
   */
  async create(record: RunRecord): Promise<void> {
    const directory = this.directory(record.runId);
    await mkdir(directory).catch((thrown: unknown) => {
      if (!(thrown instanceof Error && 'code' in thrown && thrown.code === 'EEXIST'))
        throw ensureError(thrown);
      throw new SpindleError(
        'ALREADY_EXISTS',
        `run_id: expected a name without a folder in ${this.#root}, got "${record.runId}".`,
      );
    });
    try {
      await writeFileAtomic(
        join(directory, configFile),
        `${JSON.stringify(record.config, null, 2)}\n`,
      );
      await this.#writeFile(record, serializeRecord(record));
      this.#revisions.set(
        record.runId,
        await this.#kv.create(record.runId, serializeRecord(record)),
      );
    } catch (error) {
      await rm(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /**
   * Throws ABORTED when another gateway has written a newer version. The bucket comes first: its
   * compare-and-set keeps who was overtaken from writing the file. A gateway with another bucket is
   * known by the file, and by the folder's lock.
   */
  async save(record: RunRecord): Promise<void> {
    const json = serializeRecord(record);
    await this.#fence();
    if ((await this.#identity(record.runId)) !== this.#written.get(record.runId))
      await this.#refuseOlder(record);
    await this.#writeBucket(record, json);
    this.#owed.delete(record.runId);
    await this.#writeFile(record, json).catch((thrown: unknown) => {
      const error = ensureError(thrown);
      if (error.code !== 'RESOURCE_EXHAUSTED') throw error;
      // The state says that the run waits for space: not being able to note it down must not keep
      // the run from waiting.
      this.#logger.warn(
        { err: error, run: record.runId },
        'the run state could not be written to its file',
      );
      this.#owed.set(record.runId, record);
      this.#retryLater();
    });
  }

  /** The last state of a run has no next save to bring its file up to date. */
  #retryLater(): void {
    if (this.#retry !== undefined) return;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      void this.#writeOwed();
    }, this.#retryMs).unref();
  }

  async #writeOwed(): Promise<void> {
    for (const [runId, record] of this.#owed) {
      const isOwed = (): boolean => this.#owed.get(runId) === record;
      try {
        await this.#fence();
        await this.#writeFile(record, serializeRecord(record), isOwed);
        if (isOwed()) this.#owed.delete(runId);
      } catch (error) {
        // Whoever has the folder now brings its files up to date as it starts.
        if (ensureError(error).code === 'ABORTED') this.#owed.delete(runId);
      }
    }
    if (this.#owed.size > 0) this.#retryLater();
  }

  async #writeBucket(record: RunRecord, json: string): Promise<void> {
    try {
      const revision = this.#revisions.get(record.runId);
      this.#revisions.set(
        record.runId,
        revision === undefined
          ? await this.#kv.put(record.runId, json)
          : await this.#kv.update(record.runId, json, revision),
      );
    } catch (thrown) {
      const error = ensureError(thrown);
      if (error.code === 'ABORTED') return this.#reconcile(record, json);
      // The file will have it; the next save, or the next start, brings the bucket up to date.
      this.#logger.warn(
        { err: error, run: record.runId },
        'the run state could not be written to the bucket',
      );
      await this.#refuseOlder(record);
    }
  }

  /** Where the bucket does not tell of a gateway that has taken over, the file does. */
  async #refuseOlder(record: RunRecord): Promise<void> {
    const file = join(this.directory(record.runId), recordFile);
    const json = await readFile(file, 'utf8').catch(() => null);
    const version = json === null ? 0 : versionOf(json, file);
    if (version > record.version) throw overtaken(record);
  }

  async #reconcile(record: RunRecord, json: string): Promise<void> {
    const entry = await this.#kv.get(record.runId);
    if (entry && versionOf(entry.value, `run "${record.runId}"`) >= record.version)
      throw overtaken(record);
    // The bucket was wiped, or a write whose answer got lost has gone through.
    this.#revisions.set(
      record.runId,
      entry
        ? await this.#kv.update(record.runId, json, entry.revision)
        : await this.#kv.put(record.runId, json),
    );
  }

  async delete(runId: string): Promise<void> {
    this.#owed.delete(runId);
    await rm(this.directory(runId), { recursive: true, force: true });
    await this.#kv.delete(runId);
    this.#revisions.delete(runId);
    this.#written.delete(runId);
  }

  /** One file after the other, so that none overtakes a newer one. */
  #writeFile(record: RunRecord, json: string, isWanted = () => true): Promise<void> {
    const done = this.#turn.then(async () => {
      if (isWanted()) await this.#writeNow(record, json);
    });
    this.#turn = done.catch(() => undefined);
    return done;
  }

  async #writeNow(record: RunRecord, json: string): Promise<void> {
    await this.#write(join(this.directory(record.runId), recordFile), json);
    const identity = await this.#identity(record.runId);
    if (identity !== undefined) this.#written.set(record.runId, identity);
  }

  /** Changes with every write of the run's file; undefined without a file. */
  async #identity(runId: string): Promise<string | undefined> {
    const file = join(this.directory(runId), recordFile);
    const info = await stat(file, { bigint: true }).catch(() => null);
    return info === null ? undefined : `${info.ino} ${info.size} ${info.mtimeNs}`;
  }
}

/** A disk that does not answer must not look like one without runs. */
async function foldersIn(root: string): Promise<string[]> {
  try {
    const entries = await readdir(root, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    if (isCode(error, 'ENOENT')) return [];
    throw error;
  }
}

/** Whether a run was created here. */
async function isRunFolder(directory: string): Promise<boolean> {
  return (await stat(join(directory, configFile)).catch(() => null))?.isFile() ?? false;
}

function overtaken({ runId, version }: RunRecord): SpindleError {
  return new SpindleError(
    'ABORTED',
    `run "${runId}": another gateway drives it now (version ${version} was overtaken).`,
  );
}

/** 0 for what cannot be read: a damaged copy is older than any. */
function versionOf(json: string, where: string): number {
  try {
    return parseRecord(json, where).version;
  } catch {
    return 0;
  }
}
