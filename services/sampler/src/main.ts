import { runService } from '@spindle/kit';
import { engineOptions, openWorker } from '@spindle/mesh';
import { Engine } from '@spindle/native';
import { nativeEngine } from './engine.js';
import { startSampler } from './service.js';

await runService('sampler', async (lifecycle) => {
  const { env, context } = await openWorker(lifecycle, 'sampler', process.env);
  const engine = nativeEngine(Engine.open(engineOptions(env)));
  lifecycle.defer('engine', () => engine.close());
  await startSampler(lifecycle, { engine, ...context });
});
