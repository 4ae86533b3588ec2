/** A rank above 0: carries out what rank 0 says, one command after the other. */
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
} from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import {
  Precision,
  RankService,
  type FollowResponse,
  type RankErrors,
  type RankOpen,
} from '@spindle/proto';
import type { StepErrors } from '../domain/metrics.js';
import type { TrainerEngine } from '../engine.js';
import { readSettings } from '../request.js';
import { openDataset, openSession, readModels } from '../setup.js';
import { Share } from './share.js';

export interface MemberOptions {
  engine: TrainerEngine;
  store: ArtifactStore;
  logger: Logger;
  rank: number;
  worldSize: number;
  rendezvous: string;
  workerId: string;
  /** Ends with rank 0 instead of waiting for it to come back. */
  once: boolean;
}

const retryMs = { first: 250, longest: 5_000 };

/** Until the signal aborts. */
export async function follow(options: MemberOptions, signal: AbortSignal): Promise<void> {
  const { rank, worldSize, rendezvous, workerId, logger } = options;
  let wait = retryMs.first;
  while (!signal.aborted) {
    const client = createClient(RankService, rendezvous);
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
      if (error.code === 'INVALID_ARGUMENT') throw error;
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
  #share: Share | undefined;
  #work: Promise<void> = Promise.resolve();
  #current = new AbortController();

  constructor(
    readonly options: MemberOptions,
    readonly report: (report: Report) => Promise<void>,
  ) {}

  take(command: FollowResponse): void {
    // Rank 0 does not wait for what it breaks off.
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
    this.#share?.session.release();
    await this.#share?.dataset.close();
    this.#share = undefined;
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
        this.#share = await this.#open(command.value, signal);
        return undefined;
      case 'share':
        await this.#opened().session.shareState(signal);
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
        await this.#opened().stage(command.value.step + 1);
        const { errors, phases } = await this.#opened().session.apply(
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
          `command: expected one that rank ${this.options.rank} knows, got none; are all ranks of one version?`,
        );
    }
  }

  async #open(open: RankOpen, signal: AbortSignal): Promise<Share> {
    const { engine, store, rank, worldSize } = this.options;
    if (open.request === undefined)
      throw new SpindleError('INVALID_ARGUMENT', 'request: expected a training, got nothing');
    const settings = readSettings(open.request);
    const precision = open.precision === Precision.BFLOAT16 ? 'bfloat16' : 'float32';
    const models = await readModels(open.request, settings, { store, engine });
    const dataset = await openDataset(open.request, settings, models.pipeline, precision, {
      store,
      engine,
    });
    const group = {
      rank,
      worldSize,
      address: open.groupAddress,
      token: open.groupToken,
      timeoutSeconds: open.timeoutSeconds,
    };
    try {
      using linked = linkedAbort(signal);
      const session = await openSession(models, settings, precision, engine, group, linked.signal);
      return new Share(session, dataset, settings, rank, worldSize);
    } catch (thrown) {
      await dataset.close();
      throw thrown;
    }
  }

  #opened(): Share {
    if (this.#share === undefined)
      throw new SpindleError('FAILED_PRECONDITION', 'expected an open training, got none');
    return this.#share;
  }
}

function toMessage(part: StepErrors): RankErrors {
  const { loss, loserScale, errorReal, errorGenerated, opponentErrorReal, opponentErrorGenerated } =
    part;
  return {
    $typeName: 'spindle.v1.RankErrors',
    loss,
    loserScale,
    errorReal: Array.from(errorReal),
    errorGenerated: Array.from(errorGenerated),
    opponentErrorReal: Array.from(opponentErrorReal),
    opponentErrorGenerated: Array.from(opponentErrorGenerated),
  };
}
