import { closeSync, openSync, writeSync } from 'node:fs';

/**
 * Takes up all room there is by now. A pruned checkpoint or a failed write gives some back, so it
 * is called until nothing runs any more.
 */
export function topUp(ballast: string): void {
  const block = Buffer.alloc(1 << 20);
  const file = openSync(ballast, 'a');
  try {
    for (;;) writeSync(file, block);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error;
  } finally {
    closeSync(file);
  }
}
