// Compares committed generated files (proto/gen, docs/CONFIG.md, docs/MODEL_CONFIGS.md,
// gateway/schema, THIRD_PARTY_NOTICES.md, infra/nats) with what their generators write today;
// `--write` renews them (`npm run generate` does the same).
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { notices } from './lib/notices.mjs';
import { main, root, runQuietly, ScriptError } from './lib/phase.mjs';

const generatedProto = join(root, 'proto/gen');

function filesBelow(folder) {
  return readdirSync(folder, { recursive: true })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile())
    .map((path) => relative(folder, path))
    .sort();
}

/** Files that only one of two folders has, or whose bytes differ. */
function differences(a, b) {
  const [ours, theirs] = [filesBelow(a), filesBelow(b)];
  const all = [...new Set([...ours, ...theirs])];
  return all.filter(
    (name) =>
      !ours.includes(name) ||
      !theirs.includes(name) ||
      !readFileSync(join(a, name)).equals(readFileSync(join(b, name))),
  );
}

/** protobuf-es's output, beside the committed one. */
function checkProto(write) {
  const buf = (...args) =>
    runQuietly(process.execPath, [join(root, 'node_modules/@bufbuild/buf/bin/buf'), ...args], {
      cwd: join(root, 'proto'),
      env: { ...process.env, PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH ?? ''}` },
    });
  buf('lint');
  const fresh = mkdtempSync(join(tmpdir(), 'spindle-generated-'));
  try {
    buf('generate', '--output', fresh);
    const stale = differences(join(fresh, 'gen'), generatedProto);
    if (stale.length > 0 && write) {
      rmSync(generatedProto, { recursive: true, force: true });
      cpSync(join(fresh, 'gen'), generatedProto, { recursive: true });
      return [];
    }
    return stale.map((name) => `proto/gen/${name}`);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

/** Those of a generator in TypeScript. */
function filesOf(generator, write) {
  const tsx = join(root, 'node_modules/tsx/dist/cli.mjs');
  const script = join(root, generator);
  const args = [tsx, '--conditions=@spindle/source', script, ...(write ? [] : ['--check'])];
  const output = runQuietly(process.execPath, args);
  return output.split('\n').filter((line) => line !== '');
}

function noticesFile(write) {
  const name = 'THIRD_PARTY_NOTICES.md';
  const file = join(root, name);
  const text = notices();
  if (existsSync(file) && readFileSync(file, 'utf8') === text) return [];
  if (!write) return [name];
  writeFileSync(file, text);
  return [];
}

await main(() => {
  const { values } = parseArgs({ options: { write: { type: 'boolean', default: false } } });
  const stale = [
    ...checkProto(values.write),
    ...filesOf('gateway/src/config/generate.ts', values.write),
    ...noticesFile(values.write),
    ...filesOf('services/models/src/config-keys/generate.ts', values.write),
    ...filesOf('services/mesh/src/nats/generate.ts', values.write),
  ];
  if (stale.length === 0) return 0;
  throw new ScriptError(
    `not what the generators write today: ${stale.join(', ')} (npm run generate)`,
  );
});
