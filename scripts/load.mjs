// `npm run load`: a gateway with a thousand runs under clients, pages, come-and-go visitors and a
// full queue. Every part is a process of its own. Prints a table and appends JSON lines to
// bench/results/<date>-load.jsonl.
import { appendFileSync, mkdirSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { answer, built, ended, LoadMesh, until } from './load/mesh.mjs';
import { main, root, ScriptError } from './lib/phase.mjs';

const help = `usage: npm run load -- [options]
  --only PART         lists, pages, visitors or queue; may be given again; default all
  --base DIR          another built checkout to take turns with, part by part
  --rounds N          how often each part runs; default 1
  --runs N            records that the gateway has; default 1000
  --jobs N            jobs of the queue; default 10000
  --workers N         that drain it; default 4
  --visitors N        clients that come and go; default 10000
  --seconds N         that lists and pages are measured for; default 15
  --cpu-prof DIR      the gateway writes a processor profile there (slower)
  --results DIR       default bench/results; - for none`;

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    base: { type: 'string' },
    rounds: { type: 'string', default: '1' },
    runs: { type: 'string', default: '1000' },
    jobs: { type: 'string', default: '10000' },
    workers: { type: 'string', default: '4' },
    visitors: { type: 'string', default: '10000' },
    seconds: { type: 'string', default: '15' },
    'cpu-prof': { type: 'string' },
    results: { type: 'string', default: join(root, 'bench/results') },
    help: { type: 'boolean', default: false },
  },
});
const number = (name) => {
  if (!/^[1-9]\d*$/.test(values[name]))
    throw new ScriptError(`--${name}: expected a number, got ${values[name]}`, 2);
  return Number(values[name]);
};
const visited = 'at-work';

/** Records are written by this tree's code; both trees read them. */
async function writeRuns(mesh, count) {
  const records = await built(root, 'gateway/dist/testing/records.js');
  const now = Date.now();
  const runs = Array.from({ length: count - 1 }, (_, i) =>
    records.succeededRecord(`run-${String(i).padStart(4, '0')}`, now - (count - i) * 60_000),
  );
  records.writeRecords(mesh.artifacts, [...runs, records.drawingRecord(visited, now, 100, 50)]);
}

async function withRuns(tree, work) {
  const mesh = new LoadMesh(tree);
  try {
    await mesh.startNats();
    await writeRuns(mesh, number('runs'));
    await mesh.startGateway(profile());
    return await work(mesh);
  } finally {
    await mesh.stop();
  }
}

function profile() {
  const folder = values['cpu-prof'];
  return folder === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${resolve(folder)}`];
}

/** Processor seconds of the gateway over a piece of work, and how long that took. */
async function spent(mesh, work) {
  const before = mesh.gateway();
  const began = performance.now();
  const result = await work();
  const after = mesh.gateway();
  return {
    ...result,
    seconds: (performance.now() - began) / 1_000,
    gatewayCpu: after.cpu - before.cpu,
    gatewayRss: after.rss,
  };
}

const parts = {
  lists: (tree) =>
    withRuns(tree, async (mesh) => {
      const clients = ['--address', `127.0.0.1:${mesh.grpcPort}`, '--clients', '64'];
      const result = await spent(mesh, () =>
        answer(mesh.start('list-client.mjs', [...clients, '--seconds', values.seconds])),
      );
      return { ...result, msPerCall: (1_000 * result.gatewayCpu) / result.calls };
    }),
  pages: (tree) =>
    withRuns(tree, async (mesh) => {
      const args = ['--port', String(mesh.httpPort), '--run', visited];
      const result = await spent(mesh, () =>
        answer(mesh.start('pages.mjs', [...args, '--seconds', values.seconds])),
      );
      return { ...result, percentOfCore: (100 * result.gatewayCpu) / result.seconds };
    }),
  visitors: (tree) =>
    withRuns(tree, async (mesh) => {
      const total = number('visitors');
      // A tenth first, then the rest: what grows with visitors is ten times as much in the end.
      const marks = [0, 0.1, 0.4, 0.7, 1].map((part) => Math.round(part * total));
      const address = ['--address', `127.0.0.1:${mesh.grpcPort}`, '--port', String(mesh.httpPort)];
      const sizes = async (visitors) => ({
        visitors,
        ...(await mesh.heap()),
        gateway: mesh.gateway().rss,
        nats: mesh.nats().rss,
      });
      const memory = [await sizes(0)];
      const result = await spent(mesh, async () => {
        for (const [i, mark] of marks.entries()) {
          if (i === 0) continue;
          const count = String(mark - marks[i - 1]);
          const args = [...address, '--run', visited, '--visitors', count];
          await answer(mesh.start('visitors.mjs', args));
          // What ends a little after its visitor is over.
          await new Promise((resolve) => setTimeout(resolve, 2_000));
          memory.push(await sizes(mark));
        }
        return { visitors: total, memory };
      });
      return result;
    }),
  queue: async (tree) => {
    const mesh = new LoadMesh(tree);
    const records = await built(root, 'gateway/dist/testing/records.js');
    const jobs = number('jobs');
    const workers = [];
    try {
      await mesh.startNats();
      records.writeRecords(mesh.artifacts, [records.drawingRecord('queue', Date.now(), jobs)]);
      await mesh.startGateway(profile());
      const { createClient } = await built(tree, 'services/kit/dist/index.js');
      const { RunService } = await built(tree, 'proto/dist/src/index.js');
      const client = createClient(RunService, `127.0.0.1:${mesh.grpcPort}`);
      const began = performance.now();
      for (let i = 0; i < number('workers'); i++) {
        const args = ['--tree', tree, '--artifacts', mesh.artifacts, '--id', `w${i}`];
        workers.push(mesh.start('worker.mjs', args, { flags: i === 0 ? profile() : [] }));
      }
      const done = async () => {
        const { run } = await client.getRun({ runId: 'queue' });
        return run.stages.find((stage) => stage.stage === 'sample-base').done;
      };
      const marks = [];
      await until(
        async () => {
          const count = await done();
          marks.push([Math.round(performance.now() - began), count]);
          return count === jobs;
        },
        'the queue',
        900_000,
      );
      const seconds = (performance.now() - began) / 1_000;
      const { gateway, nats } = { gateway: mesh.gateway(), nats: mesh.nats() };
      client.close();
      const answers = workers.map(answer);
      for (const worker of workers) worker.kill('SIGTERM');
      const each = await Promise.all(answers);
      const sum = (key) => each.reduce((total, one) => total + one[key], 0);
      return {
        jobs,
        handled: sum('jobs'),
        failed: sum('failed'),
        seconds,
        perSecond: jobs / seconds,
        gatewayCpu: gateway.cpu,
        gatewayRss: gateway.rss,
        natsCpu: nats.cpu,
        natsRss: nats.rss,
        workersCpu: sum('cpu'),
      };
    } finally {
      for (const worker of workers) await ended(worker, 'SIGKILL');
      await mesh.stop();
    }
  },
};

await main(async () => {
  if (values.help) return console.log(help);
  const wanted = values.only ?? Object.keys(parts);
  for (const name of wanted)
    if (!(name in parts))
      throw new ScriptError(
        `--only: expected one of ${Object.keys(parts).join(', ')}, got ${name}`,
        2,
      );
  const trees = [
    ['this', root],
    ...(values.base === undefined ? [] : [['base', resolve(values.base)]]),
  ];
  for (let round = 0; round < number('rounds'); round++) {
    for (const part of wanted) {
      for (const [name, tree] of trees) {
        const load = loadavg()[0];
        const figures = await parts[part](tree);
        const machine = {
          date: new Date().toISOString(),
          processor: cpus()[0]?.model ?? 'unknown',
          cores: availableParallelism(),
          load,
        };
        const line = JSON.stringify({ ...machine, part, tree: name, ...figures });
        console.log(line);
        if (values.results === '-') continue;
        mkdirSync(values.results, { recursive: true });
        const file = `${machine.date.slice(0, 10)}-load.jsonl`;
        appendFileSync(join(values.results, file), `${line}\n`);
      }
    }
  }
});
