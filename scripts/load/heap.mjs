// Loaded before a gateway that runs with --expose-gc: on SIGUSR2 it collects garbage and writes its
// heap in MiB into the file that LOAD_HEAP_FILE names.
import { renameSync, writeFileSync } from 'node:fs';

const file = process.env.LOAD_HEAP_FILE;
process.on('SIGUSR2', () => {
  // What the first one finalises is free after the second.
  globalThis.gc();
  globalThis.gc();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  const mib = (bytes) => bytes / (1 << 20);
  const sizes = { heap: mib(heapUsed), external: mib(external), buffers: mib(arrayBuffers) };
  writeFileSync(`${file}.part`, JSON.stringify(sizes));
  renameSync(`${file}.part`, file);
});
