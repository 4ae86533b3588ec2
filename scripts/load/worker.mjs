// A worker whose jobs take no time: what is left is the queue, the result's commit, the news of it
// and the acknowledgement. Runs until SIGTERM; prints how many jobs it did.
import { parseArgs } from 'node:util';
import { built, usage } from './mesh.mjs';

const { values } = parseArgs({
  options: { tree: { type: 'string' }, artifacts: { type: 'string' }, id: { type: 'string' } },
});
const { connectBus, openLocalStore, createJobHandler, WorkerState } = await built(
  values.tree,
  'services/mesh/dist/index.js',
);
const { createLogger } = await built(values.tree, 'services/kit/dist/index.js');
const logger = createLogger('worker', { level: 'error' });
const bus = await connectBus({ url: process.env.SPINDLE_NATS_URL, name: values.id, logger });
const store = await openLocalStore(values.artifacts);
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort());
const state = new WorkerState();
const handler = createJobHandler({
  service: 'sampler',
  perform: async () => ({ case: 'sample', value: { count: 1 } }),
  store,
  bus,
  state,
  instruments: { jobDone: () => undefined, jobFailed: () => undefined },
  logger,
  workerId: values.id,
});
await bus.consumeJobs(['encode', 'sample'], handler, { workerId: values.id, signal: stop.signal });
await bus.close();
const figures = { jobs: state.jobsDone, failed: state.jobsFailed, cpu: usage(process.pid).cpu };
process.stdout.write(`${JSON.stringify(figures)}\n`);
process.exit(0);
