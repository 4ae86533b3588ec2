import { create } from '@bufbuild/protobuf';
import { checkHealth, createClient, fromFloat32, fromInt64, writeSafetensors } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import {
  Objective,
  Precision,
  TrainerService,
  TrainRequestSchema,
  type TrainRequest,
  type TrainResponse,
} from '@spindle/proto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { NodeChild, root } from './child.js';
import { scenes } from './files.js';
import { freePorts } from './ports.js';
import { until } from './wait.js';

const pipeline = join(scenes, 'tiny-sd');
const images = 6;

/** Numbers without a pattern, the same every time. */
function numbers(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** Heights and widths of latents of one area, as aspect-ratio buckets give them. */
const ratios = [
  [4, 16],
  [8, 8],
  [16, 4],
] as const;

/**
 * A short training of the demo's U-Net on made-up latents; key and settings may differ from run to
 * run. `bucketed`: the images are of three shapes.
 */
export async function tinyTraining(
  store: ArtifactStore,
  key: string,
  settings: {
    steps: number;
    gradientAccumulation?: number;
    lora?: { rank: number; alpha: number; targets: string[] };
  },
  { bucketed = false } = {},
): Promise<TrainRequest> {
  const index = fromInt64(Array.from({ length: images }, (_, i) => i));
  const shapes = {
    ...fromInt64(Array.from({ length: images }, (_, i) => [4, ...(ratios[i % 3] ?? [])]).flat()),
    shape: [images, 3],
  };
  const own = { index, ...(bucketed && { shape: shapes }) };
  const shard = (tensors: Record<string, ReturnType<typeof fromFloat32>>) =>
    store.put(
      writeSafetensors(new Map(Object.entries({ ...own, ...tensors }))),
      'application/safetensors',
    );
  const size = images * 4 * 8 * 8;
  const latents = bucketed ? [size] : [images, 4, 8, 8];
  const unet = { name: 'base', path: join(pipeline, 'unet') };
  return create(TrainRequestSchema, {
    key,
    runId: key,
    iteration: 1,
    modelName: 'spin1',
    objective: Objective.SPIN_LOGISTIC,
    init: unet,
    opponent: unet,
    pipelinePath: pipeline,
    encodedShards: [
      await shard({
        mean: fromFloat32(latents, numbers(size, 1)),
        logvar: fromFloat32(latents, new Float32Array(size).fill(-4)),
        text: fromFloat32([images, 32, 128], numbers(images * 32 * 128, 2)),
      }),
    ],
    generatedShards: [await shard({ latents: fromFloat32(latents, numbers(size, 3)) })],
    settings: {
      batchSize: 4,
      learningRate: 1e-4,
      beta: 500,
      adamBeta1: 0.9,
      adamBeta2: 0.999,
      adamEpsilon: 1e-8,
      weightDecay: 0.01,
      maxGradNorm: 1,
      captionDropout: 0.2,
      samplePosterior: true,
      checkpointSteps: 1_000,
      keepCheckpoints: 2,
      seed: 7n,
      precision: Precision.FLOAT32,
      ...settings,
    },
  });
}

/** The trainer as a process of its own, with what it needs around it. */
export class TrainerProcess {
  private constructor(
    readonly child: NodeChild,
    readonly client: ReturnType<typeof createClient<typeof TrainerService>>,
  ) {}

  static async start(
    artifacts: string,
    natsUrl: string,
    env: Record<string, string> = {},
  ): Promise<TrainerProcess> {
    const [port] = await freePorts(1);
    const address = env['SPINDLE_GRPC_ADDRESS'] ?? `127.0.0.1:${port}`;
    const child = new NodeChild(join(root, 'services/trainer/dist/main.js'), [], {
      env: {
        SPINDLE_NATS_URL: natsUrl,
        SPINDLE_ARTIFACTS: artifacts,
        SPINDLE_GRPC_ADDRESS: address,
        SPINDLE_WORKER_ID: 'trainer',
        SPINDLE_THREADS: '1',
        ...env,
      },
    });
    await until(`the trainer at ${address}`, async () => {
      if (!child.running) throw new Error(`it ended: ${child.tail()}`);
      return checkHealth(address, 1_000);
    });
    return new TrainerProcess(child, createClient(TrainerService, address));
  }

  /** Processes of the other ranks, in no order. */
  children(): number[] {
    const { pid } = this.child;
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
      .trim()
      .split(' ')
      .filter(Boolean)
      .map(Number);
  }

  /** All that the call gives; `onStep` may cut it short. */
  async train(
    request: TrainRequest,
    onStep: (step: number, stop: () => void) => void = () => undefined,
  ): Promise<TrainResponse[]> {
    const controller = new AbortController();
    const responses: TrainResponse[] = [];
    try {
      for await (const response of this.client.train(request, { signal: controller.signal })) {
        responses.push(response);
        if (response.event.case === 'step')
          onStep(response.event.value.step, () => controller.abort());
      }
    } catch (error) {
      if (!controller.signal.aborted)
        throw new Error(`${String(error)}\n${this.child.tail()}`, { cause: error });
    }
    return responses;
  }

  async stop(signal?: NodeJS.Signals): Promise<void> {
    this.client.close();
    await this.child.stop(signal);
  }
}
