/**
 * Sample grids while the run is going on: the same prompts and seeds for every model, straight from
 * the artifact store.
 */
import { createReadStream } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { SpindleError } from '@spindle/kit';
import { modelName } from '../domain/model.js';
import { modelsOf, reportedPrompts } from '../domain/plan.js';
import { stageName } from '../domain/stage.js';
import type { RunDriver } from '../orchestrator/driver.js';

const shownPrompts = 16;

export interface GridModel {
  model: string;
  /** Positions in the prompt list whose first image is drawn. */
  indices: number[];
}

export async function listImages(
  driver: RunDriver,
): Promise<{ prompts: { index: number; prompt: string }[]; models: GridModel[] }> {
  const { plan, stages } = driver.record.state;
  if (plan.evaluationPrompts === 0) return { prompts: [], models: [] };
  const each = plan.evaluationImages ?? 1;
  const { prompts } = await driver.texts();
  const shown = prompts
    .slice(0, Math.min(shownPrompts, reportedPrompts(plan)))
    .map((prompt, index) => ({ index, prompt }));
  const models = modelsOf(plan).map((model) => {
    const done = new Set(stages[stageName({ kind: 'eval-sample', model })]?.done ?? []);
    return {
      model: modelName(model),
      indices: shown
        .map(({ index }) => index)
        .filter((index) => done.has(Math.floor((index * each) / plan.sampleShardSize))),
    };
  });
  return { prompts: shown, models: models.filter((model) => model.indices.length > 0) };
}

/** images/<model>/<index>.png: the first image of a prompt. */
export async function sendImage(
  response: ServerResponse,
  driver: RunDriver,
  path: string[],
): Promise<void> {
  const [name, file] = path;
  const index = /^(\d{1,9})\.png$/.exec(file ?? '')?.[1];
  const { plan } = driver.record.state;
  const model = modelsOf(plan).find((one) => modelName(one) === name);
  if (
    path.length !== 2 ||
    model === undefined ||
    index === undefined ||
    Number(index) >= reportedPrompts(plan)
  ) {
    throw new SpindleError(
      'NOT_FOUND',
      `image: expected images/<model>/<index>.png of this run, got "${path.join('/')}".`,
    );
  }
  const image = await driver.evaluationImage(
    modelName(model),
    Number(index) * (plan.evaluationImages ?? 1),
  );
  response.writeHead(200, {
    'Content-Type': 'image/png',
    'Cache-Control': 'private, max-age=31536000, immutable',
  });
  await pipeline(createReadStream(image), response).catch(() => undefined);
}
