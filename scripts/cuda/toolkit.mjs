// Brings a private CUDA toolkit from Python wheels, for machines that compile the CUDA backend and
// have none. No Python is needed.
//
//   node scripts/cuda/toolkit.mjs [--cache DIR] [--wheels DIR] [--runtime]
//
// The last line of its output is the toolkit's folder, for `SPINDLE_CUDA_ROOT` or
// `scripts/build-native.mjs --cuda-root`.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { findCommand } from '../lib/system.mjs';
import { main, ScriptError } from '../lib/phase.mjs';
import { fetchWheel, findLinks, indexUrl } from './index-client.mjs';
import { extract, readDirectory } from './wheel.mjs';

const lockFile = fileURLToPath(new URL('toolkit.lock', import.meta.url));
const help = `usage: node scripts/cuda/toolkit.mjs [options]

Brings the compiler, headers and libraries of CUDA that scripts/cuda/toolkit.lock names, from Python wheels, and prints their folder.
What is there already is not fetched again.

  --cache DIR   where the toolkit lies (default: SPINDLE_CUDA_CACHE, or spindle/cuda in XDG_CACHE_HOME or ~/.cache)
  --wheels DIR  a folder with the wheels, for machines without network; PIP_FIND_LINKS is looked at too
  --runtime     also the libraries that only running needs (1.2 GB), for GPU machines that have a driver but no toolkit
  --check       fetch nothing: print the folder if the toolkit is there, else fail
`;

/**
 * [{ name, version, sha256 }] of a file in pip's requirements format, with exact versions and one
 * hash each.
 */
export function parseLock(text) {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '' && !line.startsWith('#'))
    .map((line) => {
      const match = /^([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$/.exec(line.trim());
      if (match === null)
        throw new ScriptError(
          `toolkit.lock: expected "name==version --hash=sha256:...", got "${line}"`,
        );
      const [, name, version, sha256] = match;
      return { name, version, sha256 };
    });
}

/**
 * Where a file of a wheel goes in the toolkit; undefined: it is not needed. Wheels hold
 * `nvidia/<part>/{bin,include,lib,nvvm}`, cuDNN's frontend `include/`.
 */
export function placeOf(wheel, name, { runtime = false } = {}) {
  const licence = /\.dist-info\/(?:licenses\/)?(LICEN[CS]E[^/]*|License\.txt)$/i.exec(name);
  if (licence !== null) return `licenses/${wheel}.txt`;
  const inside = /^(?:nvidia\/[^/]+\/)?((?:bin|include|lib|nvvm)\/.+)$/.exec(name)?.[1];
  if (inside === undefined || inside.startsWith('lib/cmake/')) return undefined;
  if (!inside.startsWith('lib/')) return inside;
  if (/^lib\/lib(cudart|cublasLt|cudnn|nccl)\.so\.\d+$|\.a$/.test(inside)) return inside;
  // cuDNN loads its parts, and they NVRTC, when a program runs.
  return runtime && /^lib\/lib(cudnn_\w+|nvrtc(-builtins)?|cublas)\.so\.[\d.]+$/.test(inside)
    ? inside
    : undefined;
}

export function defaultCache(env) {
  if (env.SPINDLE_CUDA_CACHE) return resolve(env.SPINDLE_CUDA_CACHE);
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'spindle', 'cuda');
}

async function sha256Of(path) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest('hex');
}

/**
 * The wheel of `entry` in one of the folders, by its name; its content is checked by whoever asks.
 */
function wheelIn(folders, entry) {
  const start = `${entry.name.replaceAll('-', '_')}-${entry.version}-`;
  for (const folder of folders) {
    if (!existsSync(folder)) continue;
    const file = readdirSync(folder).find(
      (name) => name.startsWith(start) && name.endsWith('.whl'),
    );
    if (file !== undefined) return join(folder, file);
  }
  return undefined;
}

/** pip, where there is one, knows the machine's index, proxy and certificates best. */
function pipDownload(pip, entry, folder) {
  if (pip === null) return false;
  const requirement = join(folder, `${entry.name}.requirement`);
  writeFileSync(requirement, `${entry.name}==${entry.version} --hash=sha256:${entry.sha256}\n`);
  const platforms = ['2_28', '2_27', '2_18', '2_17', '2_12'].flatMap((version) => [
    '--platform',
    `manylinux_${version}_x86_64`,
  ]);
  const args = [
    'download',
    '--quiet',
    '--no-deps',
    '--no-cache-dir',
    '--retries',
    '2',
    '--timeout',
    '30',
    '--only-binary',
    ':all:',
    '--require-hashes',
  ];
  const result = spawnSync(
    pip,
    [
      ...args,
      ...platforms,
      '--python-version',
      '3.11',
      '--dest',
      folder,
      '--requirement',
      requirement,
    ],
    {
      encoding: 'utf8',
    },
  );
  rmSync(requirement, { force: true });
  return result.status === 0 ? true : result.stderr.trim().split('\n').at(-1);
}

async function obtain(entry, { cache, folders, env, pip }) {
  const found = wheelIn(folders, entry);
  if (found !== undefined) {
    if ((await sha256Of(found)) === entry.sha256) return { path: found, ours: false };
    console.error(
      `${found} is not the wheel that toolkit.lock names (another SHA-256): fetching it`,
    );
  }
  const downloads = join(cache, 'wheels');
  mkdirSync(downloads, { recursive: true });
  const kept = wheelIn([downloads], entry);
  if (kept !== undefined) {
    if ((await sha256Of(kept)) === entry.sha256) return { path: kept, ours: true };
    rmSync(kept);
  }
  console.error(`fetching ${entry.name} ${entry.version}`);
  const byPip = pipDownload(pip, entry, downloads);
  const fetched = byPip === true ? wheelIn([downloads], entry) : undefined;
  if (fetched !== undefined) return { path: fetched, ours: true };
  try {
    return { path: await fetchWheel(indexUrl(env), entry, downloads), ours: true };
  } catch (error) {
    if (!(error instanceof ScriptError) || typeof byPip !== 'string') throw error;
    throw new ScriptError(`${error.message}; pip says: ${byPip}`, error.exitCode);
  }
}

async function unpack(entry, wheel, target, options) {
  let files;
  try {
    files = readDirectory(wheel);
  } catch (error) {
    throw new ScriptError(`${wheel} cannot be unpacked: ${error.message}`);
  }
  for (const file of files) {
    const place = placeOf(entry.name, file.name, options);
    if (place === undefined) continue;
    if (place.split('/').includes('..'))
      throw new ScriptError(`${wheel}: ${file.name} points out of its folder`);
    const program = /^(bin|nvvm\/bin)\/[^/.]+$/.test(place) || place === 'bin/cudafe++';
    await extract(wheel, file, join(target, place), program ? 0o755 : 0o644);
  }
}

/** What linkers look for: libx.so beside libx.so.9, and lib64 as in NVIDIA's own installations. */
function addLinks(target) {
  symlinkSync('lib', join(target, 'lib64'));
  for (const name of readdirSync(join(target, 'lib'))) {
    const plain = /^(lib\w+\.so)\.\d+$/.exec(name)?.[1];
    if (plain !== undefined) symlinkSync(name, join(target, 'lib', plain));
  }
}

/** Returns the toolkit's folder, with all that the lock names in it. */
export async function ensureToolkit({
  cache,
  wheels = [],
  runtime = false,
  check = false,
  env = process.env,
  pip = findCommand(['pip3', 'pip']) ?? null,
  lock = readFileSync(lockFile, 'utf8'),
} = {}) {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new ScriptError(
      `the private toolkit is for x86_64 Linux, this is ${process.arch} ${process.platform}: ` +
        `install NVIDIA's CUDA toolkit`,
    );
  // Compiling needs nothing of NVRTC.
  const entries = parseLock(lock).filter(({ name }) => runtime || !name.endsWith('-nvrtc'));
  cache ??= defaultCache(env);
  const digest = createHash('sha256')
    .update(JSON.stringify({ entries, layout: 1 }))
    .digest('hex')
    .slice(0, 12);
  const named = (kind) => join(cache, `toolkit-${digest}${kind}`);
  for (const folder of [named('-runtime'), ...(runtime ? [] : [named('')])])
    if (existsSync(folder)) return folder;
  const folder = named(runtime ? '-runtime' : '');
  if (check)
    throw new ScriptError(`no private CUDA toolkit in ${cache}: run node scripts/cuda/toolkit.mjs`);
  // What is half done keeps its name and is thrown away; only a whole toolkit gets its own.
  const work = `${folder}.${process.pid}.part`;
  rmSync(work, { recursive: true, force: true });
  try {
    const folders = [...wheels, ...findLinks(env)].map((path) => resolve(path));
    for (const entry of entries) {
      const wheel = await obtain(entry, { cache, folders, env, pip });
      await unpack(entry, wheel.path, work, { runtime });
      if (wheel.ours) rmSync(wheel.path);
    }
    addLinks(work);
    if (!existsSync(folder)) renameSync(work, folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return folder;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    const { values } = parseArgs({
      options: {
        cache: { type: 'string' },
        wheels: { type: 'string', multiple: true },
        runtime: { type: 'boolean' },
        check: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
    if (values.help) {
      process.stdout.write(help);
      return 0;
    }
    console.log(await ensureToolkit({ ...values, cache: values.cache && resolve(values.cache) }));
    return 0;
  });
}
