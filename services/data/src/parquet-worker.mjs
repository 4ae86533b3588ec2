/**
 * The thread that decodes row groups for parquet-decoder.ts: a decoder that follows a damaged count
 * can be stopped there, in time and in memory. Plain JavaScript, because a thread starts from a
 * file in the sources as well as in what is built.
 */
import { parentPort } from 'node:worker_threads';
import { parquetReadObjects } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';

/** @type {Map<number, { resolve: (data: ArrayBuffer) => void, reject: (error: Error) => void }>} */
const reads = new Map();
let asked = 0;

parentPort?.on('message', (message) => {
  if (message.kind === 'data') {
    reads.get(message.read)?.resolve(message.data);
    reads.delete(message.read);
  } else void decode(message);
});

/** Bytes of the file come from whoever asked, who knows where it lies. */
function slice(start, end) {
  const read = ++asked;
  const reading = new Promise((resolve, reject) => reads.set(read, { resolve, reject }));
  parentPort?.postMessage({ kind: 'read', read, start, end });
  // What the decoder asks for and does not wait for must not end the thread.
  reading.catch(() => undefined);
  return reading;
}

async function decode({ bytes, ...options }) {
  try {
    const file = { byteLength: bytes, slice: (start, end = bytes) => slice(start, end) };
    const rows = await parquetReadObjects({ ...options, file, compressors, utf8: false });
    parentPort?.postMessage({ kind: 'rows', rows }, [...buffersOf(rows)]);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    parentPort?.postMessage({ kind: 'failed', message });
  } finally {
    reads.clear();
  }
}

/** Whole buffers of binary cells move; one cell's bytes are views of its page's. */
function buffersOf(value, found = new Set()) {
  if (ArrayBuffer.isView(value)) {
    if (value.buffer instanceof ArrayBuffer) found.add(value.buffer);
  } else if (value !== null && typeof value === 'object')
    for (const part of Object.values(value)) buffersOf(part, found);
  return found;
}
