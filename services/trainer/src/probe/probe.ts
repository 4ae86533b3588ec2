/** Times the steps of a training on noise, through the same calls as a real one. */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createLogger, sha256File } from '@spindle/kit';
import { readPipeline, wholeImage } from '@spindle/models';
import {
  type NativePrecision,
  type TensorDto,
  type TrainBatchDto,
  type TrainerOptionsDto,
} from '@spindle/native';
import { Checkpoints } from '../checkpoints.js';
import type { TrainerEngine, TrainingSession } from '../engine.js';

export interface ProbeRequest {
  model: string;
  resolution: number;
  precision: 'auto' | NativePrecision;
  /** "spin_logistic", …, "sft". */
  objective: string;
  /** Pairs, or images of sft, per micro-batch. */
  microBatch: number;
  emaDecay: number;
  activationCheckpointing: boolean;
  lora: TrainerOptionsDto['lora'];
  /** Captions are dropped: the text encoders are in memory for a moment. */
  dropsCaptions: boolean;
  /** Where files are written to be timed, and removed again. */
  folder: string;
  /** Training will write checkpoints. */
  saves: boolean;
}

export interface TrainingProbe {
  precision: NativePrecision;
  /** Of one micro-batch, and of the optimiser's step. */
  microBatchSeconds: number;
  applySeconds: number;
  /** Of what a training does once, and of one checkpoint (0 if none is written). */
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
  const { model, resolution, microBatch, objective } = request;
  const precision =
    request.precision === 'auto' ? (await engine.choosePrecision()).precision : request.precision;
  const { schedulerConfig } = engine.describePipeline(model);
  const options: TrainerOptionsDto = {
    objective,
    beta: 2000,
    safeguard: null,
    minSnrGamma: 0,
    lora: request.lora,
    schedulerConfig,
    precision,
    learningRate: 1e-6,
    schedule: 'constant',
    warmupSteps: 0,
    totalSteps: steps,
    adamBeta1: 0.9,
    adamBeta2: 0.999,
    adamEpsilon: 1e-8,
    weightDecay: 0.01,
    maxGradNorm: 1,
    emaDecay: request.emaDecay,
    activationCheckpointing: request.activationCheckpointing,
    seed: 0n,
    iteration: 1,
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
    if (request.dropsCaptions) await engine.emptyPrompt(model, precision);
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
      generated: objective === 'sft' ? null : latents(),
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
    // The first step takes memory from the system, which later ones have.
    const mean = (of: 0 | 1): number =>
      times.slice(1).reduce((sum, pair) => sum + pair[of], 0) / (steps - 1) / 1000;
    const written = await timeFiles(session, request, precision);
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
  { folder, saves, lora }: ProbeRequest,
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
      if (lora !== null)
        await session.exportAdapters(join(temporary, 'adapters.safetensors'), false);
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
