import { runService } from '@spindle/kit';
import { engineOptions, openWorker } from '@spindle/mesh';
import { Engine } from '@spindle/native';
import { nativeEngine } from './engine.js';
import { startScorer } from './service.js';

await runService('scorer', async (lifecycle) => {
  const { env, context } = await openWorker(lifecycle, 'scorer', process.env);
  const engine = nativeEngine(Engine.open(engineOptions(env)));
  lifecycle.defer('engine', () => engine.close());
  await startScorer(lifecycle, { engine, ...context });
});
