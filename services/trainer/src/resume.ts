/** The first phase of an attempt: opens what it trains with, and loads the newest checkpoint. */
import { ensureError, SpindleError } from '@spindle/kit';
import { runPrecision } from '@spindle/mesh';
import type { ModelSourceDto, NativePrecision } from '@spindle/native';
import { Precision, type TrainStep } from '@spindle/proto';
import type { TrainCall } from './call.js';
import type { Checkpoint, CheckpointFacts } from './checkpoints.js';
import { noMargins, readMargins, type MarginAverage } from './domain/auto-beta.js';
import { readReports } from './recent-steps.js';
import type { Rollbacks } from './domain/recovery.js';
import { firstDifference } from './domain/settings.js';
import type { TrainingSession } from './engine.js';
import { digestOf, GeneratedShards, shardsText, shardsTold } from './generated-shards.js';
import { wirePrecision } from './precision.js';
import { RankTraining } from './ranks/rank-training.js';
import type { RankCommand } from './ranks/ranks.js';
import { fingerprintOf } from './request.js';
import { haveLeftSnapshots } from './snapshots.js';
import { openDataset, openSession, readModels, type Models } from './setup.js';

export interface OpenTraining {
  facts: CheckpointFacts;
  init: ModelSourceDto;
  /** Rank 0's own part of the training. */
  own: RankTraining;
  /** The step of the checkpoint; 0 without one. */
  startStep: number;
  /** The moving mean of the steps so far, by which auto-beta goes. */
  margins: MarginAverage;
  /** Reports of the last steps before `startStep`. */
  recent: TrainStep[];
  rollbacks: Rollbacks;
}

/** A session that is open on all ranks, and has the state of `startStep` on rank 0. */
interface Resumed extends Pick<OpenTraining, 'facts' | 'startStep' | 'margins' | 'recent'> {
  session: TrainingSession;
}

/** The caller must close `own`. */
export async function resume(call: TrainCall): Promise<OpenTraining> {
  const { request, settings, checkpoints, deps, signal } = call;
  const { store, engine, logger, ranks } = deps;
  const asked = await runPrecision(
    store,
    request.runId,
    request.settings?.precision ?? Precision.AUTO,
    () => engine.choosePrecision(),
  );
  const fingerprint = fingerprintOf(request, settings);
  await checkpoints.fetch();
  const models = await readModels(request, settings, deps);
  const { session, facts, startStep, margins, recent } =
    (await fromCheckpoint(call, models, fingerprint)) ??
    (await fromStart(call, models, {
      precision: asked.precision,
      precisionReason: asked.reason,
      fingerprint,
    }));
  try {
    await ranks.onAllRanks(
      { case: 'broadcast', value: {} },
      (linked) => session.broadcastState(linked),
      signal,
    );
    const { precision } = facts;
    const { pipeline } = models;
    const data = await openDataset({ request, settings, pipeline, precision }, deps);
    const { dataset } = data;
    if (dataset.unmatched > 0) {
      logger.warn(
        { key: request.key, unmatched: dataset.unmatched },
        `images without a ${dataset.options.against} one are left out`,
      );
    }
    const place = { rank: 0, worldSize: ranks.worldSize };
    const own = new RankTraining(session, data, settings, place);
    const rollbacks = await checkpoints.rollbacks();
    return { facts, init: models.init, own, startStep, margins, recent, rollbacks };
  } catch (thrown) {
    session.release();
    throw thrown;
  }
}

async function fromStart(
  call: TrainCall,
  models: Models,
  facts: CheckpointFacts,
): Promise<Resumed> {
  const session = await openOnAllRanks(call, models, facts.precision);
  return { session, facts, startStep: 0, margins: noMargins, recent: [] };
}

/** The newest checkpoint that can be loaded; null where there is none. */
async function fromCheckpoint(
  call: TrainCall,
  models: Models,
  fingerprint: Record<string, string>,
): Promise<Resumed | null> {
  for await (const checkpoint of call.checkpoints.usable()) {
    const { path, manifest } = checkpoint;
    if (!(await haveLeftSnapshots(call, manifest.step))) {
      const { step } = manifest;
      const why = 'weights of a judged step are lost; training goes on from before it';
      call.deps.logger.warn({ key: call.request.key, step }, why);
      continue;
    }
    const { generatedShards = '' } = manifest.fingerprint;
    const difference = firstDifference(manifest.fingerprint, {
      ...fingerprint,
      generatedShards: await sameShards(generatedShards, call),
    });
    if (difference !== null) {
      throw new SpindleError(
        'FAILED_PRECONDITION',
        `${path}: the checkpoint was made with other settings: ${difference}; ` +
          'remove it or use another key',
      );
    }
    // The precision that training began in stays, whatever a new measurement would say.
    const { step: startStep, precision, precisionReason } = manifest;
    const session = await openOnAllRanks(call, models, precision);
    const loaded = await loadInto(session, checkpoint, call);
    if (loaded !== null) {
      return { session, facts: { precision, precisionReason, fingerprint }, startStep, ...loaded };
    }
  }
  return null;
}

/**
 * What a fingerprint of as many shards as `kept` tells of would say. UNAVAILABLE while one of them
 * is drawn again: the caller asks anew.
 */
async function sameShards(kept: string, { request, deps }: TrainCall): Promise<string> {
  const shards = new GeneratedShards(request, deps.store);
  const told = shardsTold(kept);
  const refs = await shards.first(told ?? shards.count);
  if (refs !== null) return told === undefined ? digestOf(refs) : shardsText(refs, Infinity);
  throw new SpindleError(
    'UNAVAILABLE',
    `${request.key}: its checkpoint was made with the images of ${shards.nextKey}, which are ` +
      'not there',
  );
}

/**
 * Null where the checkpoint is damaged. Then it was set aside, and the session released on all
 * ranks.
 */
async function loadInto(
  session: TrainingSession,
  { path, manifest }: Checkpoint,
  { request, checkpoints, deps }: TrainCall,
): Promise<Pick<OpenTraining, 'margins' | 'recent'> | null> {
  try {
    const state = await session.loadState(path);
    const margins = readMargins(state['margins']);
    const recent = readReports(state['reports']);
    if (state['warning'] !== undefined) {
      deps.logger.warn({ key: request.key, path }, state['warning']);
    }
    return { margins, recent };
  } catch (thrown) {
    session.release();
    deps.ranks.release();
    await checkpoints.setAside(manifest.step, ensureError(thrown).message);
    return null;
  }
}

async function openOnAllRanks(
  { request, settings, deps, signal }: TrainCall,
  models: Models,
  precision: NativePrecision,
): Promise<TrainingSession> {
  const { ranks, engine } = deps;
  const group = ranks.newGroup();
  const command: RankCommand = {
    case: 'open',
    value: {
      request,
      precision: wirePrecision(precision),
      groupAddress: group?.address ?? '',
      groupToken: group?.token ?? '',
      timeoutSeconds: group?.timeoutSeconds ?? 0,
    },
  };
  // Another rank may fail after this one has opened its session, which then is released.
  const opened: TrainingSession[] = [];
  try {
    const { own } = await ranks.onAllRanks(
      command,
      async (linked) => {
        const session = await openSession({ models, settings, precision, group }, engine, linked);
        opened.push(session);
        return session;
      },
      signal,
    );
    return own;
  } catch (thrown) {
    for (const session of opened) session.release();
    throw thrown;
  }
}
