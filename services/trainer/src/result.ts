/**
 * What a finished training leaves: weights, their average and adapters as artifacts, and the
 * committed result that names them.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create, fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { isLeftOver, type ArtifactStore } from '@spindle/mesh';
import type { ModelSourceDto } from '@spindle/native';
import {
  TrainFinishedSchema,
  UnetRefSchema,
  type ArtifactRef,
  type TrainFinished,
  type TrainRequest,
} from '@spindle/proto';
import type { TrainingSettings } from './domain/settings.js';
import type { TrainingSession } from './engine.js';

interface Trained {
  store: ArtifactStore;
  session: TrainingSession;
  settings: TrainingSettings;
  request: TrainRequest;
  /** The model that training began from. The result has the same config. */
  init: ModelSourceDto;
}

/** What training ends in after so many steps, and what it would end in on the way there. */
export async function exportResult(
  { store, session, settings, request, init }: Trained,
  steps: number,
  seconds: number,
): Promise<TrainFinished> {
  const folder = await store.tempDir();
  const put = async (
    name: string,
    write: (path: string) => Promise<void>,
  ): Promise<ArtifactRef> => {
    const path = join(folder, name);
    await write(path);
    return store.putFile(path, 'application/safetensors', { move: true });
  };
  try {
    const config = await store.put(Buffer.from(init.config, 'utf8'), 'application/json');
    const exported = async (name: string, averaged: boolean) => ({
      unet: create(UnetRefSchema, {
        name,
        config,
        weights: await put('diffusion_pytorch_model.safetensors', (path) =>
          session.export(path, averaged),
        ),
      }),
      ...(settings.lora && {
        adapter: await put('pytorch_lora_weights.safetensors', (path) =>
          session.exportAdapters(path, averaged),
        ),
      }),
    });
    const result = await exported(request.modelName, settings.emaDecay > 0 && !settings.emaApart);
    const average = settings.emaApart ? await exported(request.modelName, true) : undefined;
    return create(TrainFinishedSchema, {
      ...result,
      runCreatedMs: request.runCreatedMs,
      steps,
      seconds,
      ...(average && {
        average: average.unet,
        ...(average.adapter && { averageAdapter: average.adapter }),
      }),
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Makes the result final: whoever asks for this key again gets it. */
export async function commit(
  key: string,
  finished: TrainFinished,
  store: ArtifactStore,
): Promise<TrainFinished> {
  const json = toJsonString(TrainFinishedSchema, finished);
  while ((await store.commitResult(key, json)) !== 'committed') {
    const first = parseFinished(await store.getResult(key));
    // The same key's result is the same bytes; what a deleted run has left gives way.
    if (first && !(await isLeftOver(key, first, finished, store))) break;
    if (first === null) await store.deleteResults(key);
  }
  return finished;
}

/** Null for what is no result of a training. */
export function parseFinished(json: string | null): TrainFinished | null {
  try {
    return fromJsonString(TrainFinishedSchema, json ?? '', { ignoreUnknownFields: true });
  } catch {
    return null;
  }
}
