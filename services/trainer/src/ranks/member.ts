/** A rank above 0: carries out what rank 0 says, one command after the other. */
import { create } from '@bufbuild/protobuf';
import {
  createClient,
  delay,
  ensureError,
  extractContext,
  inSpan,
  linkedAbort,
  nowMs,
  recordPhases,
  SpindleError,
  type Logger,
  type Transport,
} from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import {
  RankErrorsSchema,
  RankService,
  type FollowResponse,
  type RankErrors,
  type RankOpen,
} from '@spindle/proto';
import type { StepErrors } from '../domain/metrics.js';
import type { TrainerEngine } from '../engine.js';
import { readSettings } from '../request.js';
import { nativePrecision } from '../precision.js';
import { openDataset, openSession, readModels } from '../setup.js';
import { RankTraining } from './rank-training.js';

export interface MemberOptions {
  engine: TrainerEngine;
  store: ArtifactStore;
  logger: Logger;
  rank: number;
  worldSize: number;
  rendezvous: string;
  /** What rank 0 wants to be shown before it hands anything out. */
  token: string | undefined;
  transport?: Transport | undefined;
  workerId: string;
  /** Whether to end with rank 0 instead of waiting for it to come back. */
  once: boolean;
}

const retryMs = { first: 250, longest: 5_000 };

/** Follows rank 0 until the signal aborts. */
export async function follow(options: MemberOptions, signal: AbortSignal): Promise<void> {
  const { rank, worldSize, rendezvous, token, transport, workerId, logger } = options;
  let wait = retryMs.first;
  while (!signal.aborted) {
    const client = createClient(RankService, rendezvous, token, transport);
    const member = new Member(options, (report) =>
      client.report({ rank, ...report }).then(() => undefined),
    );
    try {
      for await (const command of client.follow({ rank, worldSize, workerId }, { signal })) {
        wait = retryMs.first;
        member.take(command);
      }
      logger.info('rank 0 ended the call');
    } catch (thrown) {
      const error = ensureError(thrown);
      if (signal.aborted) break;
      if (error.code === 'INVALID_ARGUMENT' || error.code === 'UNAUTHENTICATED') throw error;
      logger.warn({ err: error }, 'rank 0 is not there');
    } finally {
      await member.release();
      client.close();
    }
    if (options.once) return;
    await delay(wait, signal).catch(() => undefined);
    wait = Math.min(wait * 2, retryMs.longest);
  }
}

interface Report {
  id: bigint;
  parts?: RankErrors[];
  failure?: { code: string; message: string };
}

class Member {
  #training: RankTraining | undefined;
  #work: Promise<void> = Promise.resolve();
  #current = new AbortController();

  constructor(
    readonly options: MemberOptions,
    readonly report: (report: Report) => Promise<void>,
  ) {}

  take(command: FollowResponse): void {
    // Rank 0 waits for no report of a release.
    if (command.command.case === 'release') void this.release();
    else this.#work = this.#work.then(() => this.#carryOut(command, this.#current.signal));
  }

  async release(): Promise<void> {
    this.#current.abort(new SpindleError('CANCELLED', 'rank 0 released this rank'));
    this.#current = new AbortController();
    this.#work = this.#work.then(() => this.#letGo());
    await this.#work;
  }

  async #letGo(): Promise<void> {
    await this.#training?.close();
    this.#training = undefined;
  }

  async #carryOut({ id, trace, command }: FollowResponse, signal: AbortSignal): Promise<void> {
    const { rank, logger } = this.options;
    const report: Report = { id };
    try {
      await inSpan(
        `trainer.rank.${command.case}`,
        { 'spindle.rank': rank },
        async () => {
          const parts = await this.#do(command, signal);
          if (parts !== undefined) report.parts = parts.map(toMessage);
        },
        extractContext(trace),
      );
    } catch (thrown) {
      const { code, message } = ensureError(thrown);
      if (signal.aborted) return;
      logger.warn({ err: thrown, command: command.case }, 'this rank failed');
      report.failure = { code, message };
    }
    await this.report(report).catch((error: unknown) =>
      logger.debug({ err: error }, 'report not delivered'),
    );
  }

  async #do(
    command: FollowResponse['command'],
    signal: AbortSignal,
  ): Promise<StepErrors[] | undefined> {
    signal.throwIfAborted();
    switch (command.case) {
      case 'open':
        await this.#letGo();
        this.#training = await this.#open(command.value, signal);
        return undefined;
      case 'broadcast':
        await this.#opened().session.broadcastState(signal);
        return undefined;
      case 'gradients': {
        const began = nowMs();
        const { parts, phases } = await this.#opened().gradients(
          command.value.step,
          command.value.beta,
          signal,
        );
        recordPhases(phases, began);
        return parts;
      }
      case 'apply': {
        const began = nowMs();
        const { errors, phases } = await this.#opened().apply(
          command.value.step,
          command.value.learningRateScale,
          signal,
        );
        recordPhases(phases, began);
        return errors;
      }
      case 'verify':
        await this.#opened().session.verifyRanks(signal);
        return undefined;
      case 'release':
      case undefined:
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `command: expected one that rank ${this.options.rank} knows, got none; ` +
            'are all ranks of one version?',
        );
    }
  }

  async #open(open: RankOpen, signal: AbortSignal): Promise<RankTraining> {
    const { engine, store, rank, worldSize } = this.options;
    if (open.request === undefined) {
      throw new SpindleError('INVALID_ARGUMENT', 'request: expected a training, got nothing');
    }
    const settings = readSettings(open.request);
    const precision = nativePrecision(open.precision);
    const models = await readModels(open.request, settings, { store, engine });
    const { request } = open;
    const { pipeline } = models;
    const data = await openDataset({ request, settings, pipeline, precision }, { store, engine });
    const group = {
      rank,
      worldSize,
      address: open.groupAddress,
      token: open.groupToken,
      timeoutSeconds: open.timeoutSeconds,
    };
    try {
      using linked = linkedAbort(signal);
      const session = await openSession(
        { models, settings, precision, group },
        engine,
        linked.signal,
      );
      return new RankTraining(session, data, settings, { rank, worldSize });
    } catch (thrown) {
      await data.dataset.close();
      throw thrown;
    }
  }

  #opened(): RankTraining {
    if (this.#training === undefined) {
      throw new SpindleError('FAILED_PRECONDITION', 'expected an open training, got none');
    }
    return this.#training;
  }
}

function toMessage(part: StepErrors): RankErrors {
  const values = RankErrorsSchema.fields.map(({ localName }): [string, number | number[]] => {
    const value = part[localName as keyof StepErrors];
    return [localName, typeof value === 'number' ? value : Array.from(value)];
  });
  return create(RankErrorsSchema, Object.fromEntries(values));
}
