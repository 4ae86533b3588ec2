/** Small shards and requests for the trainer's tests. */
import { create, toJsonString } from '@bufbuild/protobuf';
import { fromFloat32, fromInt64, writeSafetensors } from '@spindle/kit';
import { epochOrder } from '@spindle/kit/domain';
import { type ArtifactStore } from '@spindle/mesh';
import {
  JobResultSchema,
  LearningRateSchedule,
  Objective,
  Precision,
  ShardsToComeSchema,
  TrainRequestSchema,
  type ArtifactRef,
  type TrainRequest,
  type TrainState,
} from '@spindle/proto';

/**
 * A shard of encoded images. `rejected` are the indices that have a rejected image. With a
 * `pooledWidth` it is for a model that takes pooled texts, sizes and crops (SDXL).
 */
export function encodedShard(
  store: ArtifactStore,
  indices: readonly number[],
  rejected: readonly number[] = [],
  { pooledWidth = 0 } = {},
): Promise<ArtifactRef> {
  const rows = (size: number, of: (index: number) => number): Float32Array =>
    Float32Array.from(
      indices.flatMap((index) => Array.from({ length: size }, (_, i) => of(index) + i / 8)),
    );
  const tensors = new Map([
    ['index', fromInt64([...indices])],
    [
      'mean',
      fromFloat32(
        [indices.length, 1, 2, 2],
        rows(4, (index) => index),
      ),
    ],
    [
      'logvar',
      fromFloat32(
        [indices.length, 1, 2, 2],
        rows(4, () => -1),
      ),
    ],
    [
      'text',
      fromFloat32(
        [indices.length, 2, 2],
        rows(4, (index) => index * 10),
      ),
    ],
  ]);
  if (rejected.length > 0) {
    const latents = (of: (index: number) => number) =>
      fromFloat32(
        [rejected.length, 1, 2, 2],
        Float32Array.from(rejected.flatMap((index) => Array.from({ length: 4 }, () => of(index)))),
      );
    tensors.set('rejected_index', fromInt64([...rejected]));
    tensors.set(
      'rejected_mean',
      latents((index) => index + 100),
    );
    tensors.set(
      'rejected_logvar',
      latents(() => -1),
    );
  }
  if (pooledWidth > 0) {
    tensors.set(
      'pooled',
      fromFloat32(
        [indices.length, pooledWidth],
        rows(pooledWidth, (index) => index),
      ),
    );
    const timeIds = indices.flatMap((index) => [64, 64 + index, 0, index, 64, 64]);
    tensors.set('time_ids', fromFloat32([indices.length, 6], Float32Array.from(timeIds)));
  }
  return store.put(writeSafetensors(tensors), 'application/safetensors');
}

/** Generated images that were encoded again: the mean is the row's number in the shard. */
export function posteriorShard(
  store: ArtifactStore,
  indices: readonly number[],
): Promise<ArtifactRef> {
  const rows = (of: (row: number) => number) =>
    fromFloat32(
      [indices.length, 1, 2, 2],
      Float32Array.from(indices.flatMap((_, row) => new Array<number>(4).fill(of(row)))),
    );
  const tensors = new Map([
    ['index', fromInt64([...indices])],
    ['mean', rows((row) => row)],
    ['logvar', rows(() => -1)],
  ]);
  return store.put(writeSafetensors(tensors), 'application/safetensors');
}

export function generatedShard(
  store: ArtifactStore,
  indices: readonly number[],
  offset: number,
): Promise<ArtifactRef> {
  const data = Float32Array.from(
    indices.flatMap((index) => Array.from({ length: 4 }, () => index + offset)),
  );
  return store.put(
    writeSafetensors(
      new Map([
        ['index', fromInt64([...indices])],
        ['latents', fromFloat32([indices.length, 1, 2, 2], data)],
      ]),
    ),
    'application/safetensors',
  );
}

type RaggedRow = readonly [index: number, shape: readonly number[]];

/**
 * Latents of several shapes. Those of an image count up from its index in eighths, those of its
 * rejected image from 100 more.
 */
export function raggedShard(
  store: ArtifactStore,
  kind: 'encoded' | 'latents',
  rows: readonly RaggedRow[],
  rejected: readonly RaggedRow[] = [],
): Promise<ArtifactRef> {
  const size = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);
  const flat = (of: readonly RaggedRow[], value: (index: number, i: number) => number) => {
    const data = Float32Array.from(
      of.flatMap(([index, shape]) =>
        Array.from({ length: size(shape) }, (_, i) => value(index, i)),
      ),
    );
    return fromFloat32([data.length], data);
  };
  const shapes = (of: readonly RaggedRow[]) => ({
    ...fromInt64(of.flatMap(([, shape]) => [...shape])),
    shape: [of.length, 3],
  });
  const tensors = new Map([
    ['index', fromInt64(rows.map(([index]) => index))],
    ['shape', shapes(rows)],
    [kind === 'encoded' ? 'mean' : 'latents', flat(rows, (index, i) => index + i / 8)],
  ]);
  if (kind === 'encoded') {
    tensors.set(
      'logvar',
      flat(rows, () => -1),
    );
    tensors.set(
      'text',
      fromFloat32(
        [rows.length, 2, 2],
        Float32Array.from(rows.flatMap(([index]) => new Array<number>(4).fill(index * 10))),
      ),
    );
  }
  if (rejected.length > 0) {
    tensors.set('rejected_index', fromInt64(rejected.map(([index]) => index)));
    tensors.set('rejected_shape', shapes(rejected));
    tensors.set(
      'rejected_mean',
      flat(rejected, (index, i) => index + 100 + i / 8),
    );
    tensors.set(
      'rejected_logvar',
      flat(rejected, () => -1),
    );
  }
  return store.put(writeSafetensors(tensors), 'application/safetensors');
}

export interface RequestOverrides {
  steps?: number;
  checkpointSteps?: number;
  precision?: Precision;
  batchSize?: number;
  /** Fields of the request that replace the usual ones. */
  fields?: Partial<
    Pick<
      TrainRequest,
      'key' | 'objective' | 'encodedShards' | 'generatedShards' | 'firstStep' | 'lastStep'
    > & { continued: TrainState | undefined }
  >;
}

export async function trainRequest(
  store: ArtifactStore,
  overrides: RequestOverrides = {},
): Promise<TrainRequest> {
  const {
    steps = 20,
    checkpointSteps = 5,
    precision = Precision.FLOAT32,
    batchSize = 4,
    fields = {},
  } = overrides;
  const request = create(TrainRequestSchema, {
    key: 'r1/train-spin1',
    runId: 'r1',
    iteration: 1,
    modelName: 'spin1',
    objective: Objective.SPIN_LOGISTIC,
    init: { name: 'base', path: '/m/unet' },
    opponent: { name: 'base', path: '/m/unet' },
    pipelinePath: '/m',
    encodedShards: [await encodedShard(store, [0, 1, 2, 3]), await encodedShard(store, [4, 6, 7])],
    generatedShards: [
      await generatedShard(store, [0, 1, 2, 3, 4], 0.25),
      await generatedShard(store, [5, 6, 7], 0.5),
    ],
    settings: {
      steps,
      batchSize,
      gradientAccumulation: 2,
      learningRate: 1e-3,
      schedule: LearningRateSchedule.LINEAR,
      beta: 1000,
      adamBeta1: 0.9,
      adamBeta2: 0.999,
      adamEpsilon: 1e-8,
      weightDecay: 0.01,
      maxGradNorm: 1,
      captionDropout: 0.2,
      checkpointSteps,
      keepCheckpoints: 2,
      seed: 11n,
      precision,
      samplePosterior: true,
    },
  });
  return Object.assign(request, fields);
}

/**
 * A training of rows 0 to 7 whose images are drawn in the order in which it reads them: the request
 * with all of their shards, the one with shards to come, and how the n-th one is drawn. Shards
 * in `lacking` lack their first image.
 */
export async function drawnInOrder(
  store: ArtifactStore,
  overrides: RequestOverrides,
  { copies = 1, perShard = 2, lacking = [] as number[] } = {},
) {
  const rows = Array.from({ length: 8 }, (_, row) => row);
  const encodedShards = [await encodedShard(store, rows)];
  const fields = { encodedShards, ...overrides.fields };
  const request = await trainRequest(store, { ...overrides, fields });
  const { seed = 0n, steps = 0, batchSize = 0 } = request.settings ?? {};
  const images = Array.from(
    { length: Math.min(steps * batchSize, rows.length * copies) },
    (_, n) => {
      const epoch = Math.floor(n / rows.length);
      return {
        row: epochOrder({ seed, iteration: 1 }, epoch, rows.length)[n % rows.length] ?? 0,
        epoch,
      };
    },
  );
  const shards: ArtifactRef[] = [];
  for (let start = 0; start < images.length; start += perShard) {
    const own = images.slice(start, start + perShard);
    if (lacking.includes(shards.length)) own.shift();
    shards.push(
      await generatedShard(
        store,
        own.map(({ row }) => row),
        (own[0]?.epoch ?? 0) + start / 64,
      ),
    );
  }
  const keys = shards.map((_, n) => `r1/sample-base/${String(n).padStart(4, '0')}`);
  const toCome = create(ShardsToComeSchema, { keys, imagesPerShard: perShard, copies, views: 1 });
  const draw = async (...which: number[]): Promise<void> => {
    for (const n of which) {
      const result = create(JobResultSchema, {
        key: keys[n] ?? '',
        result: {
          case: 'sample',
          value: { count: perShard, ...(shards[n] && { latents: shards[n] }) },
        },
      });
      await store.commitResult(result.key, toJsonString(JobResultSchema, result));
    }
  };
  const common = { ...request, drawnAsRead: true };
  return {
    ...{ keys, shards, draw },
    whole: { ...common, generatedShards: shards },
    streamed: { ...common, generatedShards: [], toCome },
  };
}
