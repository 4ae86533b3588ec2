// What an image holds of Spindle: compiled services, the engine, and the packages that they need.
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { root, runQuietly, ScriptError } from './phase.mjs';

const workspaces = () => [
  'proto',
  'gateway',
  'native-cuda',
  ...readdirSync(join(root, 'services')).map((name) => `services/${name}`),
];

/** Beside package.json and dist/ of every workspace. */
const further = [
  'gateway/bin',
  'gateway/public',
  'gateway/schema',
  'services/models/bin',
  'services/evaluator/assets',
  'infra/docker/spindle.mjs',
  'infra/nats',
];
const documents = ['LICENSE', 'NOTICE', 'THIRD_PARTY_NOTICES.md', 'SECURITY.md'];
const engine = 'build/native/spindle.node';
const cudaBackend = 'build/native/spindle_cuda.so';

const isShipped = (path) =>
  !/\.(test|test-d)\.(js|d\.ts)$|\.(map|tsbuildinfo)$|\/testing(\/|$)/.test(path);

/** Writes it to `folder`, which is made anew. Nothing is compiled here. */
export function stage(folder, { cuda = false } = {}) {
  const needed = [engine, ...(cuda ? [cudaBackend] : []), 'gateway/dist/main.js'];
  for (const file of needed)
    if (!existsSync(join(root, file)))
      throw new ScriptError(`${file} does not exist; run "npm run build" first`, 2);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const copy = (path) =>
    cpSync(join(root, path), join(folder, path), { recursive: true, filter: isShipped });
  for (const file of ['package.json', 'package-lock.json']) copy(file);
  for (const workspace of workspaces())
    for (const part of ['package.json', 'dist'])
      if (existsSync(join(root, workspace, part))) copy(join(workspace, part));
  for (const path of [...further, ...documents]) if (existsSync(join(root, path))) copy(path);
  for (const file of [engine, ...(cuda ? [cudaBackend] : [])]) copy(file);
  runQuietly('npm', ['ci', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: folder,
  });
}

/** Bytes of all files below a folder; a link counts for itself alone. */
export function sizeOf(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
}
