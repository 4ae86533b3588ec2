/**
 * The program behind `spindle run --dry-run --probe` for training. It times a few steps on made-up
 * data. Its one argument is a ProbeRequest in JSON.
 */
import { ensureError } from '@spindle/kit';
import { engineEnvironmentSchema, engineOptions, pickEnvironment } from '@spindle/mesh';
import { Engine } from '@spindle/native';
import { nativeEngine } from '../engine.js';
import { probeTraining, type ProbeRequest } from './probe.js';

try {
  const request = JSON.parse(process.argv[2] ?? '{}') as ProbeRequest;
  const engine = Engine.open(
    engineOptions(
      engineEnvironmentSchema.parse(pickEnvironment(engineEnvironmentSchema, process.env)),
    ),
  );
  const report = await probeTraining(nativeEngine(engine), request, (seed, count) =>
    engine.initialNoise(seed, count),
  );
  // Linux gives kilobytes.
  process.stdout.write(
    `${JSON.stringify({ ...report, peakBytes: process.resourceUsage().maxRSS * 1024 })}\n`,
  );
  engine.close();
} catch (thrown) {
  process.stderr.write(`spindle: ${ensureError(thrown).message}\n`);
  process.exitCode = 1;
}
