// From a bare clone to something that runs; each step does only what is missing.
import { build } from '../build.mjs';
import { installPackages } from './packages.mjs';
import { phase } from './phase.mjs';
import { checkNode, installMissingPackages } from './system.mjs';

/** With `built` false, whoever calls builds what it needs. */
export async function prepare({ tests = false, built = true } = {}) {
  checkNode();
  await phase('system packages', () => installMissingPackages({ tests }));
  await phase('npm packages', () => installPackages());
  if (built) await phase('build', () => build({ tests }));
}
