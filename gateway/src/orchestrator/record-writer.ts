/** Writes a run's record, not more often than its changes are worth. */
import { ensureError } from '@spindle/kit';
import type { RunRecord } from './record.js';
import type { RunRecords } from './records.js';

/**
 * Training steps alone write the state at most this often; they are in metrics.jsonl and the
 * trainer's checkpoint anyway.
 */
const stepSaveMs = 1_000;

export class RecordWriter {
  readonly #records: RunRecords;
  readonly #fenced: (error: Error) => void;
  #savedAt = 0;
  /** The newest record was put off. */
  #dirty = false;

  /** `fenced` is called when another gateway has written a newer record. */
  constructor(records: RunRecords, fenced: (error: Error) => void) {
    this.#records = records;
    this.#fenced = fenced;
  }

  async write(record: RunRecord): Promise<void> {
    try {
      await this.#records.save(record);
    } catch (thrown) {
      const error = ensureError(thrown);
      if (error.code === 'ABORTED') this.#fenced(error);
      throw error;
    }
    this.#savedAt = Date.now();
    this.#dirty = false;
  }

  /** For a record that may be lost: written when the last write is long enough ago. */
  async writeLater(record: RunRecord): Promise<void> {
    if (this.#due) await this.write(record);
    else this.#dirty = true;
  }

  /** Writes what was put off, once its time has come. */
  async catchUp(record: RunRecord): Promise<void> {
    if (this.#dirty && this.#due) await this.write(record);
  }

  get #due(): boolean {
    return Date.now() - this.#savedAt >= stepSaveMs;
  }
}
