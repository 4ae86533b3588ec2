// `npm run bench`: the tasks of docs/PERFORMANCE.md, beside PyTorch where that is at hand. Prints a
// Markdown table and appends
// one JSON object per task to bench/results/<date>-<instruction set>.jsonl.
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import {
  caseName,
  cases,
  peerArguments,
  peerEnvironment,
  shownCommand,
  spindleArguments,
} from './lib/bench-cases.mjs';
import { isaOf, markdownTable, parseResult, ratios, summarise } from './lib/bench-results.mjs';
import { main, root, runAttached, ScriptError } from './lib/phase.mjs';

const help = `usage: npm run bench -- [options]
  --only WORD            tasks whose name has the word ("spin_step small b4 float32"); may be given again: all of the words
  --quick                one process per program with five timed calls, instead of five processes in turn
  --isa NAME             auto, avx512, avx2 or generic: holds both programs to it; default auto
  --threads N            of both programs; default: all that this process may use
  --peer-python PATH     a Python that has PyTorch and diffusers (or SPINDLE_PEER_PYTHON)
  --peer-script FILE     the peer's benchmark, see docs/PERFORMANCE.md (or SPINDLE_PEER_SCRIPT)
  --program PATH         another spindle-bench than the one that is built here
  --results DIR          default bench/results
  --list                 names of the tasks`;

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    quick: { type: 'boolean', default: false },
    isa: { type: 'string', default: 'auto' },
    threads: { type: 'string', default: String(availableParallelism()) },
    'peer-python': { type: 'string', default: process.env.SPINDLE_PEER_PYTHON },
    'peer-script': { type: 'string', default: process.env.SPINDLE_PEER_SCRIPT },
    program: { type: 'string' },
    results: { type: 'string', default: join(root, 'bench/results') },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
  strict: true,
});

/**
 * The whole output of a program, or why there is none: one that is killed for its memory is a
 * result too.
 */
function measure(program, args, environment = {}) {
  return new Promise((done) => {
    const child = spawn(program, args, {
      cwd: root,
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const out = { stdout: '', stderr: '' };
    for (const stream of ['stdout', 'stderr'])
      child[stream].setEncoding('utf8').on('data', (text) => (out[stream] += text));
    child.once('error', (error) => done({ failed: error.message }));
    child.once('close', (code, signal) => {
      const lastWords = out.stderr.trim().split('\n').at(-1);
      if (code !== 0)
        return done({ failed: signal === null ? lastWords || `exit code ${code}` : signal });
      try {
        done(parseResult(out.stdout));
      } catch (error) {
        done({ failed: error.message });
      }
    });
  });
}

/**
 * With family and model where Linux tells: a virtual machine's name may say neither ("AMD EPYC").
 */
function processorName() {
  const name = cpus()[0]?.model ?? 'unknown';
  if (!existsSync('/proc/cpuinfo')) return name;
  const text = readFileSync('/proc/cpuinfo', 'utf8');
  const numbers = ['cpu family', 'model'].flatMap(
    (field) => new RegExp(`^${field}\\s*: \\d+$`, 'm').exec(text) ?? [],
  );
  return [name, ...numbers.map((line) => line.replace(/\s*:/, ''))].join(', ');
}

/** Both programs in turn, so that a change of the machine's mood meets both. */
async function compare(one, settings, spindle, peer) {
  const sides = [spindle, ...(peer === undefined ? [] : [peer])].map((side) => ({
    ...side,
    args: side.arguments(one, settings),
    runs: [],
  }));
  for (let round = 0; round < settings.rounds; ++round) {
    for (const side of sides) {
      if (side.runs.some((run) => run.failed !== undefined)) continue; // what failed once is not tried again
      side.runs.push(await measure(side.program, side.args, side.environment));
    }
  }
  const [ours, theirs = null] = sides.map((side) =>
    summarise(shownCommand(side.program, side.args, side.environment), side.runs),
  );
  return { ...one, spindle: ours, peer: theirs, ...ratios(ours, theirs) };
}

function findPeer() {
  const [python, script] = [values['peer-python'], values['peer-script']];
  if (python === undefined && script === undefined) return undefined;
  if (python === undefined || script === undefined)
    throw new ScriptError('--peer-python and --peer-script belong together', 2);
  if (!existsSync(script))
    throw new ScriptError(`--peer-script: expected a file, got ${script}`, 2);
  return { program: python, arguments: peerArguments, environment: peerEnvironment(values.isa) };
}

async function findSpindle() {
  if (values.program === undefined) {
    const code = await runAttached(process.execPath, ['scripts/build-native.mjs']);
    if (code !== 0) throw new ScriptError('the native engine could not be built (see above)');
  }
  return {
    program: resolve(values.program ?? join(root, 'build/native/spindle-bench')),
    arguments: spindleArguments,
    environment: {},
  };
}

await main(async () => {
  if (values.help) return console.log(help);
  if (!['auto', 'avx512', 'avx2', 'generic'].includes(values.isa))
    throw new ScriptError(`--isa: expected auto, avx512, avx2 or generic, got ${values.isa}`, 2);
  if (!/^[1-9]\d*$/.test(values.threads))
    throw new ScriptError(`--threads: expected a number, got ${values.threads}`, 2);
  const wanted = cases.filter((one) => values.only.every((word) => caseName(one).includes(word)));
  if (wanted.length === 0)
    throw new ScriptError(
      `--only: no task has ${values.only.join(' and ')} in its name; --list has all`,
      2,
    );
  if (values.list) return console.log(wanted.map(caseName).join('\n'));
  const peer = findPeer();
  const spindle = await findSpindle();
  if (peer === undefined) console.error('no peer was given: only Spindle is measured');
  const settings = {
    isa: values.isa,
    threads: Number(values.threads),
    peerScript: values['peer-script'] === undefined ? undefined : resolve(values['peer-script']),
    ...(values.quick ? { rounds: 1, repeat: 5, warmup: 1 } : { rounds: 5, repeat: 1, warmup: 1 }),
  };
  const [records, processor] = [[], processorName()];
  let file;
  for (const one of wanted) {
    console.error(caseName(one));
    const date = new Date().toISOString();
    const record = await compare(one, settings, spindle, peer);
    records.push(record);
    const isa = record.spindle.program === undefined ? values.isa : isaOf(record.spindle.program);
    file = join(values.results, `${date.slice(0, 10)}-${isa}.jsonl`);
    mkdirSync(values.results, { recursive: true });
    const machine = { date, processor, isa, threads: settings.threads };
    appendFileSync(file, `${JSON.stringify({ ...machine, ...record })}\n`); // at once: a run takes long and may be stopped
  }
  console.log(`\n${markdownTable(records)}`);
  console.error(`\nwritten to ${relative(process.cwd(), file)}`);
  return records.some((record) => record.spindle.failed !== undefined) ? 1 : 0;
});
