import { engineOptions, openWorker, runService } from '@spindle/kit';
import { Engine } from '@spindle/native';
import { nativeEngine } from './engine.js';
import { startTrainer } from './service.js';

await runService('trainer', async (lifecycle) => {
  const { env, context } = await openWorker(lifecycle, 'trainer', process.env);
  const engine = nativeEngine(Engine.open(engineOptions(env)));
  lifecycle.defer('engine', () => engine.close());
  await startTrainer(lifecycle, { engine, ...context });
});
