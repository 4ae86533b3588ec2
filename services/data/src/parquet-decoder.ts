/** Row groups of parquet files, decoded in threads that can be stopped. */
import type { FileMetaData } from 'hyparquet';
import { Worker } from 'node:worker_threads';

/** A damaged count lets the decoder make billions of values out of a few bytes. */
export const decoderLimits = {
  /** How long it may decode without asking for more of the file. */
  silentMs: 60_000,
  /** Of text and numbers; what binary cells take is bounded by the file. */
  heapMb: 2_048,
};

export interface RowGroupRequest {
  metadata: FileMetaData;
  /** Of the file. */
  bytes: number;
  columns: string[];
  rowStart: number;
  rowEnd: number;
}

type FromWorker =
  | { kind: 'read'; read: number; start: number; end: number }
  | { kind: 'rows'; rows: Record<string, unknown>[] }
  | { kind: 'failed'; message: string };

/** Threads without work: they keep no process from ending. */
const idle: Worker[] = [];

/**
 * The rows, with binary cells as Uint8Array; rejects with what `read` rejects with, and with an
 * Error for what does not decode, or not within the limits.
 */
export async function decodeRowGroup(
  request: RowGroupRequest,
  read: (start: number, end: number) => Promise<ArrayBuffer>,
  limits = decoderLimits,
): Promise<Record<string, unknown>[]> {
  const worker = idle.pop() ?? startWorker(limits);
  worker.ref();
  let timer: NodeJS.Timeout | undefined;
  let isWell = false;
  try {
    const rows = await new Promise<Record<string, unknown>[]>((resolve, reject) => {
      const watch = (): void => {
        clearTimeout(timer);
        const seconds = limits.silentMs / 1_000;
        const stop = (): void => reject(new Error(`decoding took more than ${seconds} s`));
        timer = setTimeout(stop, limits.silentMs);
      };
      const answer = async ({ read: id, start, end }: FromWorker & { kind: 'read' }) => {
        clearTimeout(timer);
        const data = await read(start, end);
        worker.postMessage({ kind: 'data', read: id, data }, [data]);
        watch();
      };
      worker.on('message', (message: FromWorker) => {
        switch (message.kind) {
          case 'read':
            return void answer(message).catch(reject);
          case 'rows':
            isWell = true;
            return resolve(message.rows);
          case 'failed':
            return reject(new Error(message.message));
        }
      });
      worker.once('error', (error: NodeJS.ErrnoException) =>
        reject(
          error.code === 'ERR_WORKER_OUT_OF_MEMORY'
            ? new Error(`decoding took more than ${limits.heapMb} MiB`)
            : error,
        ),
      );
      worker.postMessage({ ...request });
      watch();
    });
    return rows;
  } finally {
    clearTimeout(timer);
    worker.removeAllListeners('message').removeAllListeners('error');
    if (isWell) {
      worker.unref();
      idle.push(worker);
    } else {
      worker.on('error', () => undefined);
      await worker.terminate();
    }
  }
}

function startWorker({ heapMb }: { heapMb: number }): Worker {
  return new Worker(new URL('./parquet-worker.mjs', import.meta.url), {
    resourceLimits: { maxOldGenerationSizeMb: heapMb },
  });
}
