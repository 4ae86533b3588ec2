/** Follows a run to its end, over restarts of the gateway. */
import { fromJsonString } from '@bufbuild/protobuf';
import { EventSchema, RunService, RunStatus, type Run } from '@spindle/proto';
import { createClient, delay, ensureError, SpindleError } from '@spindle/kit';
import {
  findGateway,
  NoMeshError,
  withClient,
  type CommonOptions,
  type Environment,
} from './context.js';
import { isOver } from './format.js';
import type { Losses, View } from './live.js';

const redrawMs = 500;

export interface FollowOptions {
  common: CommonOptions;
  environment: Environment;
  view: View;
  signal: AbortSignal;
  /** Called with every event, as JSON. */
  onEvent?: (json: string) => void;
}

/** Resolves with the run as it ended, or paused. */
export async function follow(runId: string, options: FollowOptions): Promise<Run> {
  const { common, environment, view, signal, onEvent } = options;
  let latest: Run | null = null;
  let losses: Losses | null = null;
  let sequence = 0n;
  let ended = false;
  const refresh = setInterval(() => {
    if (!latest || isOver(latest)) return;
    // Counts move with every event; rates and remaining times come with a fresh look.
    withClient(common, environment, (client) => client.getRun({ runId }, { timeoutMs: 2_000 }))
      .then(({ run }) => {
        // An answer that comes after the end would draw below the results.
        if (!run || ended) return;
        latest = run;
        view.update(latest, losses);
      })
      .catch(() => undefined);
  }, redrawMs);
  try {
    while (!signal.aborted) {
      try {
        for await (const message of watch(runId, sequence, common, environment, signal)) {
          if (message.run) latest = message.run;
          if (message.sequence > 0n) sequence = message.sequence + 1n;
          if (message.eventJson !== '') {
            onEvent?.(message.eventJson);
            losses = lossesOf(message.eventJson) ?? losses;
          }
          // A paused run sends no more; whoever watches it is told so.
          if (latest?.status === RunStatus.PAUSED) break;
        }
        if (latest && (isOver(latest) || latest.status === RunStatus.PAUSED)) {
          ended = true;
          view.end(latest);
          return latest;
        }
      } catch (thrown) {
        const error = ensureError(thrown);
        if (signal.aborted) break;
        if (error.code !== 'UNAVAILABLE' || error instanceof NoMeshError) throw error;
        view.lost('connection to the gateway lost; trying again (Ctrl-C stops watching)');
      }
      await delay(redrawMs, signal).catch(() => undefined);
    }
  } finally {
    clearInterval(refresh);
  }
  throw new SpindleError('CANCELLED', `stopped watching; run "${runId}" goes on.`);
}

async function* watch(
  runId: string,
  fromSequence: bigint,
  common: CommonOptions,
  environment: Environment,
  signal: AbortSignal,
) {
  const { address, token, transport } = await findGateway(common, environment);
  const client = createClient(RunService, address, token, transport);
  try {
    yield* client.watchRun({ runId, fromSequence }, { signal });
  } finally {
    client.close();
  }
}

function lossesOf(json: string): Losses | null {
  const { fact } = fromJsonString(EventSchema, json, { ignoreUnknownFields: true });
  if (fact.case !== 'trainStep' || !fact.value.step) return null;
  const { model, steps, step } = fact.value;
  return {
    model,
    steps,
    step: step.step,
    loss: step.loss,
    implicitAccuracy: step.implicitAccuracy,
  };
}
