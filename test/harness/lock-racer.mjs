/**
 * A process that tries for the lock of each folder it is told of, at the moment at which all of its
 * rivals do: one line "FOLDER AT" in, one line "held" or "refused" out. It keeps what it holds.
 */
import { createInterface } from 'node:readline';
import { lockFolder } from '../../gateway/dist/orchestrator/folder-lock.js';

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const [folder, at] = line.split(' ');
  while (Date.now() < Number(at));
  const answer = await lockFolder(folder, 'gateway', { staleMs: 100 }).then(
    () => 'held',
    (error) => (error.code === 'FAILED_PRECONDITION' ? 'refused' : `failed: ${error.message}`),
  );
  console.log(answer);
}
