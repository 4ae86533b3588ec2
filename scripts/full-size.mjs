// `npm run full-size`: a model of a published size, with random weights, through the whole mesh:
// encode, draw, one step, decode,
// export. Prints the peak memory of every process and the seconds of every stage. SD 1.5 wants 24
// GiB and 20 GB of disk.
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root, ScriptError } from './lib/phase.mjs';
import { localBin } from './lib/system.mjs';

const help = `usage: npm run full-size -- [options]
  --release NAME      sd15, sd21 or sdxl; default sd15
  --reduced           the same parts, narrow: a trial of a minute
  --dtype TYPE        of the model's files: F32, F16 or BF16; default F16
  --folder DIR        where model, run and export go; default build/full-size
  --keep              leave all of it there; without it only the figures stay
  --help              this text`;

const spindle = join(root, 'gateway/bin/spindle.js');
const example = join(root, 'examples/full-size');
const pollMs = 200;

await main(async () => {
  const { values } = parseArgs({
    options: {
      release: { type: 'string', default: 'sd15' },
      reduced: { type: 'boolean', default: false },
      dtype: { type: 'string', default: 'F16' },
      folder: { type: 'string', default: join(root, 'build/full-size') },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(help);
    return 0;
  }
  const folder = resolve(values.folder);
  const [model, artifacts, exported] = ['model', 'artifacts', 'exported'].map((name) =>
    join(folder, name),
  );
  for (const path of [artifacts, exported]) rmSync(path, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const seconds = {};
  timed(seconds, 'write the model', () => {
    rmSync(model, { recursive: true, force: true });
    const size = values.reduced ? ['--reduced'] : [];
    execFileSync(
      process.execPath,
      [
        spindle,
        'random-model',
        '--out',
        model,
        '--release',
        values.release,
        '--dtype',
        values.dtype,
        ...size,
      ],
      { stdio: 'inherit' },
    );
  });
  // The example's paths mean "beside the example".
  const config = readFileSync(join(example, 'run.yaml'), 'utf8')
    .replace('./model', model)
    .replace('../scenes/train', join(root, 'examples/scenes/train'))
    .replace('./prompts.txt', join(example, 'prompts.txt'));
  writeFileSync(join(folder, 'run.yaml'), config);
  const peaks = await runMesh(join(folder, 'run.yaml'), artifacts);
  const report = JSON.parse(readFileSync(join(peaks.run, 'report.json'), 'utf8'));
  timed(seconds, 'export', () => {
    execFileSync(
      process.execPath,
      [
        spindle,
        'export',
        peaks.runId,
        '--iteration',
        '1',
        '--to',
        exported,
        '--artifacts',
        artifacts,
      ],
      {
        stdio: 'inherit',
      },
    );
  });
  if (!existsSync(join(exported, 'unet/diffusion_pytorch_model.safetensors')))
    throw new ScriptError(`${exported}: expected an exported U-Net, got none`, 1);
  for (const [stage, value] of Object.entries({ ...report.timings, ...seconds }))
    console.log(`${stage}: ${Number(value).toFixed(1)} s`);
  for (const [name, bytes] of Object.entries(peaks.processes))
    console.log(`peak memory of ${name}: ${(bytes / 2 ** 20).toFixed(0)} MiB`);
  console.log(
    `most memory at one moment, all processes: ${(peaks.together / 2 ** 20).toFixed(0)} MiB`,
  );
  if (!values.keep)
    for (const path of [model, artifacts, exported]) rmSync(path, { recursive: true, force: true });
  return 0;
});

function timed(seconds, name, work) {
  const began = performance.now();
  work();
  seconds[name] = (performance.now() - began) / 1000;
}

/**
 * Until the run has ended; the highest resident memory of each process, and of all of them in one
 * look.
 */
async function runMesh(config, artifacts) {
  const child = spawn(
    process.execPath,
    [spindle, 'up', '--run', config, '--exit', '--artifacts', artifacts],
    {
      stdio: 'inherit',
      env: { ...process.env, PATH: `${localBin}:${process.env.PATH ?? ''}:/usr/sbin` },
    },
  );
  const peaks = { processes: {}, together: 0 };
  const look = () => {
    const runtime = join(artifacts, 'runtime.json');
    if (!existsSync(runtime)) return;
    let together = 0;
    for (const { name, pid } of JSON.parse(readFileSync(runtime, 'utf8')).services) {
      const status = readStatus(pid);
      peaks.processes[name] = Math.max(peaks.processes[name] ?? 0, status.VmHWM ?? 0);
      together += status.VmRSS ?? 0;
    }
    peaks.together = Math.max(peaks.together, together);
  };
  const timer = setInterval(look, pollMs);
  const code = await new Promise((done, fail) => {
    child.once('error', fail);
    child.once('close', done);
  });
  clearInterval(timer);
  if (code !== 0)
    throw new ScriptError(
      `the run ended with exit code ${code}; logs lie in ${join(artifacts, 'logs')}`,
      1,
    );
  const runs = readdirSync(artifacts).filter((name) =>
    existsSync(join(artifacts, name, 'report.json')),
  );
  return { ...peaks, runId: runs[0], run: join(artifacts, runs[0]) };
}

/** Bytes by name; empty for a process that is gone, and where there is no /proc. */
function readStatus(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Object.fromEntries(
      [...text.matchAll(/^(Vm\w+):\s+(\d+) kB$/gm)].map(([, name, kib]) => [
        name,
        Number(kib) * 1024,
      ]),
    );
  } catch {
    return {};
  }
}
