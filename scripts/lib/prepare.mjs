// From a bare clone to something that runs; each step does only what is missing.
import { build } from '../build.mjs';
import { installPackages } from './packages.mjs';
import { phase } from './phase.mjs';
import { checkNode, installMissingPackages } from './system.mjs';

export async function prepare({ tests = false } = {}) {
  checkNode();
  await phase('system packages', () => installMissingPackages({ tests }));
  await phase('npm packages', () => installPackages());
  await phase('build', () => build({ tests }));
}
