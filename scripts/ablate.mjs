// `npm run ablate`: what single settings do to the demo's first iteration. One mesh, a run for each
// variant and seed; prints the table of docs/SETTINGS.md. Runs that are there already are not done
// again.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { parse } from 'yaml';
import { ablationConfig, ablationTable, scoresOf, variants } from './lib/ablation.mjs';
import { main, root, runAttached, ScriptError } from './lib/phase.mjs';
import { prepare } from './lib/prepare.mjs';
import { localBin } from './lib/system.mjs';

const help = `usage: npm run ablate -- [options]
  --seeds N          seeds 0 to N - 1 of the data's order, noise and drawing; default 3
  --only NAME        this variant, beside "plain"; may be given again
  --config FILE      default examples/scenes/run.yaml
  --artifacts DIR    where runs go; default ./artifacts/ablation
  --list             names of the variants
  --help             this text`;

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '3' },
    only: { type: 'string', multiple: true, default: [] },
    config: { type: 'string', default: join(root, 'examples/scenes/run.yaml') },
    artifacts: { type: 'string', default: join(root, 'artifacts/ablation') },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
  strict: true,
});

const spindle = join(root, 'gateway/bin/spindle.js');
const artifacts = resolve(values.artifacts);
const env = { ...process.env, PATH: `${localBin}:${process.env.PATH ?? ''}:/usr/sbin` };

function chosenVariants() {
  const names = variants.map(({ name }) => name);
  for (const name of values.only)
    if (!names.includes(name))
      throw new ScriptError(`--only: expected one of ${names.join(', ')}, got "${name}"`, 2);
  return variants.filter(
    ({ name }) => name === 'plain' || values.only.length === 0 || values.only.includes(name),
  );
}

/** Resolves once the mesh serves; it is the caller's to end. */
async function startMesh() {
  const child = spawn(process.execPath, [spindle, 'up', '--artifacts', artifacts, '--json'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
    // Ctrl-C reaches this script, which ends the mesh after the run's last word.
    detached: true,
  });
  const ended = new Promise((done) => child.once('exit', done));
  const serving = new Promise((done, fail) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line.includes('"gateway"')) done();
    });
    void ended.then(() => fail(new ScriptError('the mesh ended before it served')));
  });
  await serving;
  return async () => {
    child.kill('SIGINT');
    await ended;
  };
}

const folderOf = (name, seed) => join(artifacts, `ablate-${name}-${seed}`);
const isDone = (name, seed) => existsSync(join(folderOf(name, seed), 'report.json'));

function readRun(name, seed) {
  const folder = folderOf(name, seed);
  const lines = readFileSync(join(folder, 'scores.jsonl'), 'utf8');
  const { timings } = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8'));
  return {
    ...{ variant: name, seed, trainSeconds: timings['train-spin1'] ?? 0 },
    ...{ base: scoresOf(lines, 'base'), trained: scoresOf(lines, 'spin1') },
  };
}

await main(async () => {
  if (values.help || values.list) {
    console.log(
      values.help ? help : variants.map(({ name, says }) => `${name}: ${says}`).join('\n'),
    );
    return 0;
  }
  const seeds = Number(values.seeds);
  if (!(Number.isInteger(seeds) && seeds > 0))
    throw new ScriptError(`--seeds: expected a whole number above 0, got "${values.seeds}"`, 2);
  const chosen = chosenVariants();
  const file = resolve(values.config);
  const config = parse(readFileSync(file, 'utf8'));
  // All variants of a seed before the next seed: what is there early compares.
  const all = Array.from({ length: seeds }, (_, seed) =>
    chosen.map((variant) => ({ variant, seed })),
  ).flat();
  const open = all.filter(({ variant, seed }) => !isDone(variant.name, seed));
  if (open.length > 0) {
    await prepare();
    const configs = `${artifacts}-configs`;
    mkdirSync(configs, { recursive: true });
    const stop = await startMesh();
    try {
      for (const [n, { variant, seed }] of open.entries()) {
        const id = `ablate-${variant.name}-${seed}`;
        const path = join(configs, `${id}.json`);
        writeFileSync(
          path,
          JSON.stringify(ablationConfig(config, dirname(file), variant, seed), null, 2),
        );
        console.log(`${n + 1} of ${open.length}: ${variant.says}, seed ${seed}`);
        // The mesh has taken up what an earlier call had begun.
        const what = existsSync(join(artifacts, id))
          ? ['watch', id]
          : ['run', path, '--run-id', id, '--watch'];
        const args = [...what, '--artifacts', artifacts];
        const code = await runAttached(process.execPath, [spindle, ...args], { env });
        if (code !== 0) throw new ScriptError(`${id}: the run did not succeed`, code);
      }
    } finally {
      await stop();
    }
  }
  console.log(ablationTable(all.map(({ variant, seed }) => readRun(variant.name, seed))));
  return 0;
});
