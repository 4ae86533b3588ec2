/**
 * Sampler, scorer, trainer and evaluator without an engine: real gRPC servers and real queue
 * consumers whose work is a pure function of its inputs, so that two runs can be compared byte for
 * byte. For tests only.
 */
import { createHash } from 'node:crypto';
import { create, toJson, toJsonString } from '@bufbuild/protobuf';
import {
  EncodeResultSchema,
  EvaluatorService,
  InspectJudgeResponseSchema,
  InspectModelResponseSchema,
  JobResultSchema,
  MetricScoresSchema,
  MetricStatisticsSchema,
  ModelStatisticsSchema,
  RejectedRowSchema,
  RowSizeSchema,
  RunReportSchema,
  SampleResultSchema,
  SamplerService,
  ScoreResultSchema,
  ScorerService,
  TrainerService,
  TrainFinishedSchema,
  UnetRefSchema,
  type Job,
  type JobKind,
  type JobResult,
  type ModelEvaluation,
  type TrainRequest,
  type TrainResponse,
} from '@spindle/proto';
import { delay, GrpcServer, SpindleError, writeFileAtomic, type Logger } from '@spindle/kit';
import {
  createJobHandler,
  readJobResult,
  snapshotKey,
  WorkerState,
  type ArtifactStore,
  type Bus,
} from '@spindle/mesh';
import { join } from 'node:path';
import { solidPng } from './png.js';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { TrainResponseSchema } from '@spindle/proto';

export interface FakeBehaviour {
  /** Throws to fail a job. */
  onJob?: (job: Job) => void | Promise<void>;
  /** The loss of a step; throws to break the call off. */
  onStep?: (request: TrainRequest, step: number) => number | Promise<number>;
  /** Mean score of a model's images. */
  score?: (model: string) => number;
  /** Score of every image of a job, where it is not the same for all. */
  scoreOf?: (key: string) => number | undefined;
  rejected?: number[];
  stepMs?: number;
}

export function digest(...parts: string[]): string {
  return createHash('sha256').update(parts.join('\n')).digest('hex');
}

export interface FakeServices {
  address: string;
  /** Keys of jobs that were worked on, with repetitions. */
  worked: string[];
  /** Steps that training has done, with repetitions: "<key>@<step>". */
  trained: string[];
  behaviour: FakeBehaviour;
  stop(): Promise<void>;
}

/** All four services behind one address, and their queues. */
export async function startFakes(options: {
  bus: Bus;
  store: ArtifactStore;
  logger: Logger;
  behaviour?: FakeBehaviour;
  port?: number;
}): Promise<FakeServices> {
  const { bus, store, logger } = options;
  const stopping = new AbortController();
  const services: Omit<FakeServices, 'address' | 'stop'> = {
    worked: [],
    trained: [],
    behaviour: options.behaviour ?? {},
  };
  const server = new GrpcServer({ logger });
  server.addService(SamplerService, {
    inspectModel: async ({ path, sampling }) =>
      inspectAnswer(path, sampling?.schedulerOverridesJson ?? ''),
    sample: async () => ({}),
    getWorker: async () => ({}),
  });
  server.addService(ScorerService, {
    inspectJudge: async ({ part }) => {
      const path = part.case === 'judge' ? part.value.clipPath : (part.value ?? '');
      const { kind, embeddingWidth, textTokens } = inspectAnswer(path, '');
      const warnings = path.includes('bare') ? [`${path}: no preprocessor_config.json`] : [];
      return create(InspectJudgeResponseSchema, { kind, embeddingWidth, textTokens, warnings });
    },
    score: async () => ({}),
  });
  server.addService(TrainerService, {
    train: (request, context) => train(request, context.signal, store, services),
  });
  server.addService(EvaluatorService, {
    evaluate: async ({ models }) => ({
      models: models.map((model) => statistics(model, services.behaviour)),
    }),
    writeReport: async ({ directory, models, run }) => {
      const file = join(directory, 'report.json');
      await writeFileAtomic(
        file,
        JSON.stringify({
          models: models.map((m) => m.model),
          run: run && toJson(RunReportSchema, run),
        }),
      );
      return {
        files: [file],
        models: models.map((model) => statistics(model, services.behaviour)),
      };
    },
  });
  const port = await server.listen(`127.0.0.1:${options.port ?? 0}`);
  const kinds: JobKind[] = ['encode', 'sample', 'score'];
  const handler = createJobHandler({
    service: 'fake',
    perform: async (job) => {
      await services.behaviour.onJob?.(job);
      services.worked.push(job.key);
      return (await resultOf(job, store, services.behaviour)).result;
    },
    store,
    bus,
    state: new WorkerState(),
    instruments: { jobDone: () => undefined, jobFailed: () => undefined },
    logger,
    workerId: 'fake',
  });
  const consuming = bus.consumeJobs(kinds, handler, {
    workerId: 'fake',
    signal: stopping.signal,
    retryDelayMs: 20,
  });
  return {
    ...services,
    worked: services.worked,
    trained: services.trained,
    behaviour: services.behaviour,
    address: `127.0.0.1:${port}`,
    stop: async () => {
      stopping.abort();
      await consuming;
      await server.shutdown(0);
    },
  };
}

function inspectAnswer(path: string, overrides: string) {
  if (overrides.includes('karras'))
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'overrides: karras: expected a key that DDIMScheduler reads (…), got this one with value true',
    );
  if (path.includes('broken'))
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}/unet/diffusion_pytorch_model.safetensors: conv_in.weight: expected shape ` +
        '64×4×3×3, got 64×3×3×3.',
    );
  const kind = path.includes('clip')
    ? 'CLIPModel'
    : path.includes('head')
      ? 'AestheticHead'
      : 'StableDiffusionPipeline';
  return create(InspectModelResponseSchema, {
    kind,
    unetParameters: 1_000n,
    latentChannels: 4,
    vaeScale: 8,
    unetScale: 2,
    // 0: height and width differ.
    sampleSize: path.includes('oblong') ? 0 : 8,
    textTokens: 16,
    textWidth: 8,
    predictionType: 'epsilon',
    trainTimesteps: 1000,
    endsInNoise: false,
    scheduler: 'DDIMScheduler',
    embeddingWidth: kind === 'CLIPModel' ? 8 : path.includes('narrow') ? 4 : 0,
  });
}

async function resultOf(
  job: Job,
  store: ArtifactStore,
  behaviour: FakeBehaviour,
): Promise<JobResult> {
  const blob = (text: string, type: string) => store.put(Buffer.from(digest(text)), type);
  const base = { key: job.key, seconds: 0, worker: 'fake' };
  switch (job.work.case) {
    case 'encode': {
      const { start, count, sizes } = job.work.value;
      const rejected = (behaviour.rejected ?? []).filter(
        (index) => index >= start && index < start + count,
      );
      const value = create(EncodeResultSchema, {
        shard: await blob(`encode ${start} ${count}`, 'application/safetensors'),
        count: count - rejected.length,
        rejected: rejected.map((index) =>
          create(RejectedRowSchema, {
            index,
            file: `${index}.png`,
            reason: 'the image is truncated',
          }),
        ),
        // Rows take turns in the sizes.
        sizes: Array.from({ length: sizes.length > 0 ? count : 0 }, (_, i) => ({
          ...sizes[(start + i) % sizes.length],
          index: start + i,
        })).map(({ index, height, width }) =>
          create(RowSizeSchema, { index, height: height ?? 0, width: width ?? 0 }),
        ),
      });
      return create(JobResultSchema, { ...base, result: { case: 'encode', value } });
    }
    case 'sample': {
      const { rows, texts, unet, wantImages, wantLatents } = job.work.value;
      const identity = [unet?.path || unet?.weights?.digest || '', texts.value?.digest ?? ''];
      const drawn = rows.map(({ index, seed }) => digest(...identity, String(index), String(seed)));
      const value = create(SampleResultSchema, {
        count: rows.length,
        images: wantImages
          ? await Promise.all(drawn.map((text) => store.put(solidPng(text), 'image/png')))
          : [],
        ...(wantLatents && { latents: await blob(drawn.join(), 'application/safetensors') }),
      });
      return create(JobResultSchema, { ...base, result: { case: 'sample', value } });
    }
    case 'score': {
      const { items, metrics } = job.work.value;
      const scores = metrics.map((metric) =>
        create(MetricScoresSchema, {
          metric: metric.name,
          values: items.map(
            (item) => behaviour.scoreOf?.(job.key) ?? item.image?.digest.length ?? 0,
          ),
        }),
      );
      return create(JobResultSchema, {
        ...base,
        result: { case: 'score', value: create(ScoreResultSchema, { scores }) },
      });
    }
    case undefined:
      throw new SpindleError('INVALID_ARGUMENT', `job ${job.key}: no work.`);
  }
}

/**
 * Checkpoints every `checkpointSteps` and when cancelled, resumes from them, and ends in bytes that
 * depend on the inputs alone.
 */
async function* train(
  request: TrainRequest,
  signal: AbortSignal,
  store: ArtifactStore,
  services: Pick<FakeServices, 'trained' | 'behaviour'>,
): AsyncGenerator<MessageInitShape<typeof TrainResponseSchema>> {
  const steps = request.settings?.steps ?? 0;
  const checkpoint = `${request.key}-checkpoint`;
  const resumedStep = Number((await store.getResult(checkpoint)) ?? '0');
  yield { event: { case: 'started', value: { resumedStep, steps } } };
  const drawn = request.generatedShards.map((ref) => ref.digest);
  for (const key of request.toCome?.keys ?? []) {
    for (;;) {
      const result = await readJobResult(key, store);
      if (result?.result.case === 'sample') {
        const { latents } = result.result.value;
        if (latents) await store.get(latents);
        drawn.push(latents?.digest ?? '');
        break;
      }
      yield { event: { case: 'waiting', value: { step: resumedStep + 1, key } } };
      await delay(20, signal);
    }
  }
  const every = request.settings?.judgeEvery ?? 0;
  const resultAt = (step: number) => trained(request, drawn, step, store);
  for (let step = resumedStep + 1; step <= steps; step++) {
    if (services.behaviour.stepMs) await delay(services.behaviour.stepMs, signal);
    const loss = (await services.behaviour.onStep?.(request, step)) ?? 1 / step;
    services.trained.push(`${request.key}@${step}`);
    const leaves = every > 0 && step % every === 0 && step < steps;
    if (leaves) {
      const left = create(TrainFinishedSchema, await resultAt(step));
      await store.commitResult(
        snapshotKey(request.key, step),
        toJsonString(TrainFinishedSchema, left),
      );
    }
    if (step % (request.settings?.checkpointSteps ?? 1) === 0) {
      await store.deleteResults(checkpoint);
      await store.commitResult(checkpoint, String(step));
    }
    const value: Extract<TrainResponse['event'], { case: 'step' }>['value'] | object = {
      step,
      loss,
      errorReal: 0.1,
      errorGenerated: 0.2,
      opponentErrorReal: 0.1,
      opponentErrorGenerated: 0.1,
      implicitAccuracy: 0.75,
      gradNorm: 1,
      learningRate: 1e-4,
      beta: request.settings?.beta ?? 0,
      seconds: 0.01,
    };
    yield { event: { case: 'step', value } };
    if (leaves) yield { event: { case: 'snapshot', value: { step } } };
  }
  yield { event: { case: 'finished', value: await resultAt(steps) } };
}

/** What it ends in after so many steps: bytes that depend on the inputs alone. */
async function trained(
  request: TrainRequest,
  drawn: readonly string[],
  steps: number,
  store: ArtifactStore,
) {
  const inputs = [
    request.modelName,
    request.init?.path ?? '',
    request.init?.weights?.digest ?? '',
    ...request.encodedShards.map((r) => r.digest),
    ...drawn,
  ];
  const early = steps === request.settings?.steps ? [] : [String(steps)];
  const weights = await store.put(
    Buffer.from(digest(...inputs, String(request.settings?.seed), ...early)),
    'application/safetensors',
  );
  const config = await store.put(
    Buffer.from('{"_class_name":"UNet2DConditionModel"}'),
    'application/json',
  );
  const unet = create(UnetRefSchema, { name: request.modelName, config, weights });
  return { unet, steps, runCreatedMs: request.runCreatedMs };
}

function statistics(model: ModelEvaluation, behaviour: FakeBehaviour) {
  const mean = behaviour.score?.(model.model) ?? 1;
  const metrics = [
    create(MetricStatisticsSchema, {
      metric: 'pick',
      mean,
      median: mean,
      standardError: 0.1,
      winRate: 0.5,
      n: model.items.length,
    }),
  ];
  return create(ModelStatisticsSchema, { model: model.model, metrics });
}
