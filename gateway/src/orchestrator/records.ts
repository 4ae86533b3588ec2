/**
 * Where records live: the KV bucket (compare-and-set, so that a gateway that lost its lease cannot
 * overwrite its successor) and artifacts/<run>/run.json, from which a wiped bucket is rebuilt. The
 * newer copy wins.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureError, SpindleError, writeFileAtomic, type Logger } from '@spindle/kit';
import { type KvStore } from '@spindle/mesh';
import { parseRecord, serializeRecord, type RunRecord } from './record.js';

export class RunRecords {
  readonly #revisions = new Map<string, number>();
  readonly #kv: KvStore;
  readonly #root: string;
  readonly #logger: Logger;

  constructor(kv: KvStore, root: string, logger: Logger) {
    this.#kv = kv;
    this.#root = root;
    this.#logger = logger;
  }

  directory(runId: string): string {
    return join(this.#root, runId);
  }

  async load(): Promise<RunRecord[]> {
    this.#revisions.clear();
    const records = new Map<string, RunRecord>();
    for (const key of await this.#kv.keys()) {
      const entry = await this.#kv.get(key);
      if (!entry) continue;
      this.#revisions.set(key, entry.revision);
      this.#take(records, entry.value, `run "${key}"`);
    }
    for (const entry of await readdir(this.#root, { withFileTypes: true }).catch(() => [])) {
      if (!entry.isDirectory()) continue;
      const file = join(this.#root, entry.name, 'run.json');
      const json = await readFile(file, 'utf8').catch(() => null);
      if (json !== null) this.#take(records, json, file);
    }
    return [...records.values()].sort((a, b) => a.state.createdAt - b.state.createdAt);
  }

  #take(records: Map<string, RunRecord>, json: string, where: string): void {
    try {
      const record = parseRecord(json, where);
      const known = records.get(record.runId);
      if (!known || known.version < record.version) records.set(record.runId, record);
    } catch (error) {
      // One unreadable run must not keep the others from going on.
      this.#logger.error({ err: error }, 'a run record was left out');
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
        join(directory, 'config.json'),
        `${JSON.stringify(record.config, null, 2)}\n`,
      );
      await this.#writeFile(record);
      this.#revisions.set(
        record.runId,
        await this.#kv.create(record.runId, serializeRecord(record)),
      );
    } catch (error) {
      await rm(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /** Throws ABORTED when another gateway has written a newer version. */
  async save(record: RunRecord): Promise<void> {
    await this.#writeFile(record).catch((thrown: unknown) => {
      const error = ensureError(thrown);
      if (error.code !== 'RESOURCE_EXHAUSTED') throw error;
      // The state says that the run waits for space: not being able to note it down must not keep
      // the run from waiting.
      this.#logger.warn(
        { err: error, run: record.runId },
        'the run state could not be written to its file',
      );
    });
    const json = serializeRecord(record);
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
      // The file has it; the next save, or the next start, brings the bucket up to date.
      this.#logger.warn(
        { err: error, run: record.runId },
        'the run state could not be written to the bucket',
      );
    }
  }

  async #reconcile(record: RunRecord, json: string): Promise<void> {
    const entry = await this.#kv.get(record.runId);
    if (entry && parseRecord(entry.value, `run "${record.runId}"`).version >= record.version) {
      throw new SpindleError(
        'ABORTED',
        `run "${record.runId}": another gateway drives it now (version ${record.version} was overtaken).`,
      );
    }
    // The bucket was wiped, or a write whose answer got lost has gone through.
    this.#revisions.set(
      record.runId,
      entry
        ? await this.#kv.update(record.runId, json, entry.revision)
        : await this.#kv.put(record.runId, json),
    );
  }

  async delete(runId: string): Promise<void> {
    await rm(this.directory(runId), { recursive: true, force: true });
    await this.#kv.delete(runId);
    this.#revisions.delete(runId);
  }

  async #writeFile(record: RunRecord): Promise<void> {
    await writeFileAtomic(join(this.directory(record.runId), 'run.json'), serializeRecord(record));
  }
}
