/** Times the steps of a training on noise, through the same calls as a real one. */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fromJson, type JsonValue } from '@bufbuild/protobuf';
import { createLogger, sha256File } from '@spindle/kit';
import { readPipeline, wholeImage } from '@spindle/models';
import {
  type NativePrecision,
  type TensorDto,
  type TrainBatchDto,
  type TrainerOptionsDto,
} from '@spindle/native';
import { enumValue, Objective, ObjectiveSchema, TrainSettingsSchema } from '@spindle/proto';
import { Checkpoints } from '../checkpoints.js';
import type { TrainerEngine, TrainingSession } from '../engine.js';
import { trainerOptions } from '../setup.js';

export interface ProbeRequest {
  model: string;
  resolution: number;
  precision: 'auto' | NativePrecision;
  /** The objective's name, such as "spin_logistic" or "sft". */
  objective: string;
  /** TrainSettings as JSON. */
  settings: JsonValue;
  /** The folder where files are written for timing. They are removed again. */
  folder: string;
  /** Whether the training will write checkpoints, so that writing one is timed. */
  saves: boolean;
}

export interface TrainingProbe {
  precision: NativePrecision;
  /** The time of one micro-batch, and of the optimiser's step. */
  microBatchSeconds: number;
  applySeconds: number;
  /** The time of loading and exporting, done once, and of a checkpoint (0 if none is written). */
  loadSeconds: number;
  exportSeconds: number;
  checkpointSeconds: number;
}

const steps = 3;

export async function probeTraining(
  engine: TrainerEngine,
  request: ProbeRequest,
  noise: (seed: bigint, count: number) => Float32Array,
): Promise<TrainingProbe> {
  const { model, resolution } = request;
  const settings = fromJson(TrainSettingsSchema, request.settings);
  const objective = enumValue(ObjectiveSchema, request.objective);
  const microBatch = Math.ceil(settings.batchSize / settings.gradientAccumulation);
  const precision =
    request.precision === 'auto' ? (await engine.choosePrecision()).precision : request.precision;
  const { schedulerConfig } = engine.describePipeline(model);
  const whole = { firstStep: 0, lastStep: settings.steps };
  const options: TrainerOptionsDto = {
    ...trainerOptions({ ...settings, objective, iteration: 1, ...whole }),
    // The data is noise, so that nothing is learnt; the weights must stay finite.
    learningRate: 1e-6,
    warmupSteps: 0,
    totalSteps: steps,
    schedulerConfig,
    precision,
  };
  const { signal } = new AbortController();
  const loading = performance.now();
  const session = await engine.createSession(
    engine.unetSource(join(model, 'unet')),
    null,
    options,
    null,
    signal,
  );
  const loadSeconds = (performance.now() - loading) / 1000;
  try {
    if (settings.captionDropout > 0) await engine.emptyPrompt(model, precision);
    const { vaeScaling, textTokens, textWidth, pooledWidth } = readPipeline(model);
    let seed = 0n;
    const random = (...shape: number[]): TensorDto => ({
      data: noise(
        seed++,
        shape.reduce((product, n) => product * n, 1),
      ),
      shape,
    });
    const side = resolution / vaeScaling.scale;
    const latents = (): TensorDto => random(microBatch, vaeScaling.latentChannels, side, side);
    const batch: Omit<TrainBatchDto, 'step'> = {
      offset: 0,
      stepBatchSize: microBatch,
      last: true,
      real: latents(),
      generated: objective === Objective.SFT ? null : latents(),
      text: random(microBatch, textTokens, textWidth),
      beta: null,
      later: false,
      pooled: pooledWidth > 0 ? random(microBatch, pooledWidth) : null,
      timeIds:
        pooledWidth > 0
          ? {
              data: Float32Array.from(
                Array.from({ length: microBatch }, () => wholeImage(resolution, resolution)).flat(),
              ),
              shape: [microBatch, 6],
            }
          : null,
    };
    const times: [number, number][] = [];
    for (let step = 0; step < steps; step++) {
      const began = performance.now();
      await session.accumulate({ ...batch, step }, signal);
      const between = performance.now();
      await session.apply(step, 1, signal);
      times.push([between - began, performance.now() - between]);
    }
    // The first step takes memory from the system; later ones have it already, so it is left out.
    const mean = (of: 0 | 1): number =>
      times.slice(1).reduce((sum, pair) => sum + pair[of], 0) / (steps - 1) / 1000;
    const lora = settings.lora !== undefined;
    const written = await timeFiles(session, { ...request, lora }, precision);
    return {
      precision,
      microBatchSeconds: mean(0),
      applySeconds: mean(1),
      loadSeconds,
      ...written,
    };
  } finally {
    session.release();
  }
}

/** Seconds of writing, digesting and verifying what a training leaves. */
async function timeFiles(
  session: TrainingSession,
  { folder, saves, lora }: Pick<ProbeRequest, 'folder' | 'saves'> & { lora: boolean },
  precision: NativePrecision,
): Promise<Pick<TrainingProbe, 'exportSeconds' | 'checkpointSeconds'>> {
  const temporary = await mkdtemp(join(folder, '.probe-'));
  const seconds = async (work: () => Promise<unknown>): Promise<number> => {
    const began = performance.now();
    await work();
    return (performance.now() - began) / 1000;
  };
  try {
    const exported = join(temporary, 'unet.safetensors');
    const exportSeconds = await seconds(async () => {
      await session.export(exported, false);
      await sha256File(exported);
      if (lora) await session.exportAdapters(join(temporary, 'adapters.safetensors'), false);
    });
    await rm(exported);
    const checkpoints = new Checkpoints(
      temporary,
      1,
      createLogger('probe', { level: 'silent', pretty: false }),
    );
    const facts = { precision, precisionReason: '', fingerprint: {} };
    const save = () => checkpoints.save(steps, facts, (path) => session.saveState(path, {}));
    return { exportSeconds, checkpointSeconds: saves ? await seconds(save) : 0 };
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
