/**
 * TFRecord: length (u64), its masked CRC, the data, its masked CRC. Records are appended; what a
 * crash tore off is cut on opening.
 */
import { appendFile, mkdir, readFile, truncate } from 'node:fs/promises';
import { dirname } from 'node:path';
import { maskedCrc32c } from './crc32c.js';

export function frame(data: Uint8Array): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigUInt64LE(BigInt(data.length));
  head.writeUInt32LE(maskedCrc32c(head.subarray(0, 8)), 8);
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(maskedCrc32c(data));
  return Buffer.concat([head, data, tail]);
}

/** Whole records from the start; `bytes` is where they end. */
export function readRecords(file: Buffer): { records: Buffer[]; bytes: number } {
  const records: Buffer[] = [];
  let at = 0;
  while (at + 16 <= file.length) {
    const length = Number(file.readBigUInt64LE(at));
    const end = at + 12 + length;
    if (
      file.readUInt32LE(at + 8) !== maskedCrc32c(file.subarray(at, at + 8)) ||
      end + 4 > file.length
    )
      break;
    const data = file.subarray(at + 12, end);
    if (file.readUInt32LE(end) !== maskedCrc32c(data)) break;
    records.push(data);
    at = end + 4;
  }
  return { records, bytes: at };
}

export class RecordFile {
  readonly path: string;
  #writing: Promise<void> = Promise.resolve();
  #pending: Buffer[] = [];

  private constructor(path: string) {
    this.path = path;
  }

  /** Opens or creates; `records` are those that are there. */
  static async open(path: string): Promise<{ file: RecordFile; records: Buffer[] }> {
    const content = await readFile(path).catch(() => Buffer.alloc(0));
    const { records, bytes } = readRecords(content);
    if (bytes < content.length) await truncate(path, bytes);
    return { file: new RecordFile(path), records };
  }

  append(data: Uint8Array): void {
    this.#pending.push(frame(data));
    this.#writing = this.#writing.then(async () => {
      const batch = Buffer.concat(this.#pending);
      this.#pending = [];
      if (batch.length === 0) return;
      await mkdir(dirname(this.path), { recursive: true })
        .then(() => appendFile(this.path, batch))
        .catch(() => {
          // A full disk must not cost the run. What was torn is cut, and steps that are missing are
          // written, when the run is opened next.
        });
    });
  }

  flush(): Promise<void> {
    return this.#writing;
  }
}
