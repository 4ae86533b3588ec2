// node_modules against package-lock.json.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root, runQuietly } from './phase.mjs';

function readLock(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    // Missing, or torn by an installation that was interrupted.
    return undefined;
  }
}

/**
 * npm writes what it installed beside it: the same format, without the packages of other platforms.
 */
export function packagesAreFresh(folder = root) {
  const wanted = readLock(join(folder, 'package-lock.json'));
  const installed = readLock(join(folder, 'node_modules', '.package-lock.json'));
  if (wanted === undefined || installed === undefined) return false;
  return Object.entries(wanted).every(([path, entry]) => {
    if (!path.startsWith('node_modules/')) return true;
    const got = installed[path];
    if (got === undefined) return entry.optional === true || entry.devOptional === true;
    return entry.link === true
      ? got.link === true
      : got.version === entry.version && existsSync(join(folder, path));
  });
}

/**
 * Returns false when there was nothing to do. No package's own scripts are run: none of ours needs
 * any.
 */
export function installPackages() {
  if (packagesAreFresh()) return false;
  console.log('installing npm packages');
  runQuietly('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund']);
  return true;
}
