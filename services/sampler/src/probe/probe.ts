/** Times what encode and sample jobs do, through the same calls, on made-up images. */
import { join } from 'node:path';
import { fromJson, type JsonValue } from '@bufbuild/protobuf';
import type { NativePrecision } from '@spindle/native';
import { SamplingSettingsSchema } from '@spindle/proto';
import { unetBatchSize, vaeBatchSize } from '../domain/batches.js';
import { resolveSampling, type ResolvedSampling } from '../domain/sampling.js';
import type { SamplerEngine } from '../engine.js';

export interface ProbeRequest {
  model: string;
  resolution: number;
  precision: 'auto' | NativePrecision;
  /** SamplingSettings as JSON. */
  sampling: JsonValue;
  /** Those of images for evaluation. */
  evaluation: JsonValue;
  /** Images per job at most. */
  shardSize: number;
  /** U-Nets that are in memory together: one, or two once there are trained ones. */
  unets: number;
  /** Images are decoded, for evaluation. */
  decodes: boolean;
}

export interface SamplingProbe {
  precision: NativePrecision;
  /** Seconds per image: its posterior and text; a call of the U-Net; decoding it to a file. */
  encodeSeconds: number;
  callSeconds: number;
  decodeSeconds: number;
  /** Of a U-Net, and of everything else a model has. */
  unetLoadSeconds: number;
  pipelineLoadSeconds: number;
  /** Calls of the U-Net for an image, of training and of evaluation. */
  drawCalls: number;
  evaluateCalls: number;
}

/** As few as any schedule can have. */
const fewSteps = 4;

export async function probeSampling(
  engine: SamplerEngine,
  request: ProbeRequest,
): Promise<SamplingProbe> {
  const { model, resolution } = request;
  const signal = new AbortController().signal;
  const precision =
    request.precision === 'auto' ? (await engine.choosePrecision()).precision : request.precision;
  const { result: pipeline, seconds: pipelineLoadSeconds } = await timed(() =>
    engine.loadPipeline(model, precision, []),
  );
  const rgb = new Uint8Array(3 * resolution * resolution).map((_, i) => (i * 37) % 256);
  const images = Array.from({ length: vaeBatchSize(resolution, resolution) }, () => ({
    rgb,
    width: resolution,
    height: resolution,
  }));
  const prompts = images.map((_, i) => `a picture of thing number ${i}`);
  const encodeSeconds = await perImage(images.length, async () => {
    await pipeline.encodeImages(images, signal);
    await pipeline.encodeTexts(prompts, signal);
  });
  const source = engine.unetSource(join(model, 'unet'));
  const { result: unet, seconds: unetLoadSeconds } = await timed(() =>
    engine.loadUnet(source, precision),
  );
  const other = request.unets > 1 ? await engine.loadUnet(source, precision) : undefined;
  const [, height, width] = pipeline.latentShape(resolution, resolution);
  const count = Math.min(request.shardSize, unetBatchSize(height, width));
  const items = Array.from({ length: count }, (_, i) => ({
    prompt: `a picture of thing number ${i}`,
    seed: BigInt(i),
  }));
  const [asked, evaluation] = [request.sampling, request.evaluation].map((json) =>
    resolveSampling(fromJson(SamplingSettingsSchema, json)),
  ) as [ResolvedSampling, ResolvedSampling];
  const [drawCalls, evaluateCalls] = [pipeline.modelCalls(asked), pipeline.modelCalls(evaluation)];
  const steps = Math.min(asked.steps, fewSteps);
  const sampling = { ...asked, steps, eta: 0 };
  // A call costs the same wherever drawing starts.
  delete sampling.strength;
  const calls = pipeline.modelCalls(sampling);
  const drawn: { latents: Awaited<ReturnType<typeof pipeline.draw>>['latents'] }[] = [];
  const drawSeconds = await perImage(count, async () => {
    drawn.push(await pipeline.draw(unet, items, sampling, { signal }));
  });
  const latents = drawn.at(-1)?.latents;
  const decodeSeconds =
    request.decodes && latents !== undefined
      ? await perImage(count, async () => {
          await pipeline.decode(latents, signal);
        })
      : 0;
  unet.release();
  other?.release();
  pipeline.release();
  return {
    precision,
    encodeSeconds,
    callSeconds: drawSeconds / calls,
    decodeSeconds,
    unetLoadSeconds,
    pipelineLoadSeconds,
    drawCalls,
    evaluateCalls,
  };
}

/** The second time counts: the first one takes memory from the system, which later ones have. */
async function perImage(count: number, work: () => Promise<void>): Promise<number> {
  await work();
  return (await timed(work)).seconds / count;
}

async function timed<T>(work: () => Promise<T>): Promise<{ result: T; seconds: number }> {
  const began = performance.now();
  const result = await work();
  return { result, seconds: (performance.now() - began) / 1000 };
}
