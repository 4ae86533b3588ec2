/**
 * `spindle run --dry-run --probe`: the trainer's and the sampler's probes, one after the other, and
 * what follows from them.
 */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { toJson } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import { SamplingSettingsSchema, TrainSettingsSchema, type RunWork } from '@spindle/proto';
import {
  dpoTraining,
  evaluationSampling,
  refreshOf,
  sftTraining,
  spinTraining,
} from '../config/resolve.js';
import type { RunConfig } from '../config/schema.js';
import {
  estimate,
  pairCost,
  sftCost,
  type Estimate,
  type Probes,
  type Work,
} from '../domain/estimate.js';
import { samplingSettings } from '../orchestrator/jobs.js';
import { trainSettings } from '../orchestrator/train-settings.js';
import { partsOf } from '../domain/plan.js';
import { size } from '../server/plan-text.js';
import { duration } from './format.js';
import { probeMain } from './mesh/packages.js';

/** `folder`: where the run's files will be; what is written there to be timed goes again. */
export async function predict(
  config: RunConfig,
  work: Pick<RunWork, 'resolution' | 'rows' | 'drawn' | 'evaluated'>,
  folder: string,
): Promise<Estimate> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const planned = workload(config, work);
  const { sampling } = config;
  const common = { model: config.model, resolution: work.resolution, precision: config.precision };
  const trainer = await probe<Probes['trainer']>('trainer', {
    ...common,
    objective: `spin_${config.objective.loss}`,
    settings: toJson(TrainSettingsSchema, trainSettings(config, spinTraining(config, 1))),
    folder,
    saves: planned.trainings.some(({ checkpoints }) => checkpoints > 0),
  });
  const sampler = await probe<Probes['sampler']>('sampler', {
    ...common,
    sampling: toJson(SamplingSettingsSchema, samplingSettings(sampling, work.resolution)),
    evaluation: toJson(
      SamplingSettingsSchema,
      samplingSettings(evaluationSampling(config), work.resolution),
    ),
    shardSize: sampling.shard_size,
    // The base, and from the second model on that of another iteration.
    unets: config.iterations > 1 || config.evaluation !== undefined ? 2 : 1,
    decodes: work.evaluated > 0n,
  });
  return estimate({ trainer, sampler }, planned);
}

function workload(
  config: RunConfig,
  { rows, drawn, evaluated }: Pick<RunWork, 'rows' | 'drawn' | 'evaluated'>,
): Work {
  const train = spinTraining(config, 1);
  const [sft, dpo] = [sftTraining(config), dpoTraining(config)];
  // In units of the probed micro-batch's size, which other trainings may not share.
  const probed = train.batch_size / train.gradient_accumulation;
  const unit = pairCost(train.timesteps_per_pair);
  const training = (settings: { steps: number; batch_size: number }, cost: number) => ({
    steps: settings.steps,
    microBatches: settings.batch_size / probed,
    cost,
    // The last step's is the result itself.
    checkpoints:
      train.checkpoint_steps > 0 ? Math.floor((settings.steps - 1) / train.checkpoint_steps) : 0,
  });
  // Each part of an iteration loads its models, and what it leaves draws the images of the next.
  const parts = Array.from({ length: config.iterations }, (_, i) => i + 1).flatMap((k) =>
    partsOf({ trainSteps: config.train.steps, seed: 0, ...refreshOf(config) }, k).map(
      ({ first, last }) => ({ ...spinTraining(config, k), steps: last - first }),
    ),
  );
  return {
    rows: Number(rows),
    drawn: Number(drawn),
    evaluated: Number(evaluated),
    // The base; what is trained last is drawn with for evaluation only.
    models:
      1 +
      (parts.length - config.iterations) +
      (evaluated > 0n ? config.iterations + (sft ? 1 : 0) + (dpo ? 1 : 0) : config.iterations - 1),
    trainings: [
      ...parts.map((settings) => training(settings, 1)),
      ...(sft ? [training(sft, sftCost / unit)] : []),
      ...(dpo ? [training(dpo, pairCost(dpo.timesteps_per_pair) / unit)] : []),
    ],
  };
}

export function describeEstimate(predicted: Estimate): string[] {
  const {
    trainerBytes,
    samplerBytes,
    encodeSeconds,
    sampleSeconds,
    trainSeconds,
    evaluateSeconds,
    totalSeconds,
  } = predicted;
  return [
    `peak memory, measured: trainer ${size(trainerBytes)}, sampler ${size(samplerBytes)}.`,
    `run time on this machine: about ${duration(totalSeconds)} (encoding ` +
      `${duration(encodeSeconds)}, drawing ${duration(sampleSeconds)}, training ` +
      `${duration(trainSeconds)}, images of the evaluation ${duration(evaluateSeconds)}; judges ` +
      'not counted).',
  ];
}

/** A program of its own, so that its peak is that of nothing else. */
async function probe<T>(service: 'sampler' | 'trainer', request: object): Promise<T> {
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [
      probeMain(service),
      JSON.stringify(request),
    ]);
    return JSON.parse(stdout) as T;
  } catch (thrown) {
    const said =
      thrown instanceof Error && 'stderr' in thrown
        ? String(thrown.stderr)
            .trim()
            .replace(/^spindle: /, '')
        : '';
    throw new SpindleError(
      'INTERNAL',
      `probe of the ${service}: ${said === '' ? String(thrown) : said}`,
      { cause: thrown },
    );
  }
}
