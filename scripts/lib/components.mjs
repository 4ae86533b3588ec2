// What Spindle is made of beside its own code: npm packages as package-lock.json has them, programs
// of the system, wheels of CUDA. Nothing is asked of any network.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseLock } from '../cuda/toolkit.mjs';
import { ScriptError, root } from './phase.mjs';
import { systemPackages } from './system.mjs';

const read = (path) => readFileSync(join(root, path), 'utf8');

/** Where Node finds a package that another one asks for; undefined where it was left out. */
function resolve(packages, from, name) {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/')))) {
    const path = `${folder === '' ? '' : `${folder}/`}node_modules/${name}`;
    const found = packages[path];
    if (found !== undefined) return found.link ? found.resolved : path;
    if (folder === '') return undefined;
  }
}

/**
 * Every package of a lock, own ones too: [{ path, name, version, licence, integrity, use, asks }].
 * `use` is "own", "run", "optional" (one of several, by platform) or "development"; `asks` are
 * paths.
 */
export function npmComponents(lock) {
  const { packages } = lock;
  return Object.entries(packages)
    .filter(([, entry]) => !entry.link)
    .map(([path, entry]) => {
      const own = !path.includes('node_modules/');
      const name = entry.name ?? path.slice(path.lastIndexOf('node_modules/') + 13);
      const asked = { ...entry.dependencies, ...entry.optionalDependencies };
      const more = own ? entry.devDependencies : {};
      const asks = Object.keys({ ...asked, ...more }).flatMap(
        (other) => resolve(packages, path, other) ?? [],
      );
      const use = own
        ? 'own'
        : entry.dev
          ? 'development'
          : entry.optional || entry.devOptional
            ? 'optional'
            : 'run';
      if (typeof entry.license !== 'string')
        throw new ScriptError(`package-lock.json: ${path}: expected a license, got none`);
      const { version, license: licence, integrity } = entry;
      return { path, name, version, licence, integrity, use, asks };
    });
}

export const readNpmComponents = () => npmComponents(JSON.parse(read('package-lock.json')));

/** [{ name, version, sha256 }]; fetched only where CUDA is built and no toolkit is there. */
export const readWheels = () => parseLock(read('scripts/cuda/toolkit.lock'));

/** [{ name, tests }]; of whatever version the system has. */
export const readSystemPackages = systemPackages;
