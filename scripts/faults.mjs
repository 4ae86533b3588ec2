// `npm run faults`: random faults on real processes, round after round; whatever a run goes
// through, it has to end in the bytes of a calm run, or say what is wrong. See
// docs/RELIABILITY.md.
import { join } from 'node:path';
import { main, root, runAttached } from './lib/phase.mjs';
import { prepare } from './lib/prepare.mjs';
import { localBin } from './lib/system.mjs';

const campaign = join(root, 'test/faults/campaign/main.ts');

await main(async () => {
  const args = process.argv.slice(2);
  if (!args.includes('--help')) await prepare();
  // Tools run from the sources, processes of the mesh from dist/.
  const node = ['--import', 'tsx', '--conditions=@spindle/source', campaign];
  const env = { ...process.env, PATH: `${localBin}:${process.env.PATH ?? ''}:/usr/sbin` };
  return runAttached(process.execPath, [...node, ...args], { env });
});
