import { fileURLToPath } from 'node:url';
import { localTransport, runService } from '@spindle/kit';
import { engineOptions, openWorker } from '@spindle/mesh';
import { Engine } from '@spindle/native';
import { nativeEngine } from './engine.js';
import { runMember } from './ranks/member-process.js';
import { childFlag } from './ranks/processes.js';
import { localThreads, startRanks } from './ranks/start.js';
import { checkRankNetwork, rankPlan } from './ranks/plan.js';
import { startTrainer } from './service.js';

await runService('trainer', async (lifecycle) => {
  const plan = rankPlan(process.env);
  if (plan.kind === 'member') {
    const once = process.argv.includes(childFlag);
    // Rank 0 may be gone before its child has come this far.
    if (once && !process.connected) return;
    if (once) process.once('disconnect', () => void lifecycle.shutdown('rank 0 is gone'));
    return runMember(lifecycle, plan, process.env, once);
  }
  const { env, context } = await openWorker(lifecycle, 'trainer', process.env);
  checkRankNetwork(plan, context.transport ?? localTransport);
  const threads =
    plan.kind === 'local' ? localThreads(env.SPINDLE_THREADS, plan.worldSize) : env.SPINDLE_THREADS;
  const engine = nativeEngine(Engine.open({ ...engineOptions(env), threads }));
  lifecycle.defer('engine', () => engine.close());
  const start = {
    main: fileURLToPath(import.meta.url),
    variables: process.env,
    threads,
    backend: engine.info.backend,
    encrypted: context.transport?.tls?.content.identity !== undefined,
    ...context,
  };
  const ranks = await startRanks(lifecycle, plan, start);
  const port = await startTrainer(lifecycle, { engine, ranks: ranks?.leader ?? null, ...context });
  ranks?.launch(port);
});
