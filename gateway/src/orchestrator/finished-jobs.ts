/**
 * Takes results that workers have committed into a run's state. While one batch is taken in, the
 * next one gathers, so that a state is written once for many jobs.
 */
import { delay, mean, standardError } from '@spindle/kit';
import type { RejectedRow } from '@spindle/proto';
import type { Judgement } from '../domain/judging.js';
import { leftOut, type KeepIf } from '../domain/keep-if.js';
import { parseJobKey, stagesOf } from '../domain/plan.js';
import type { StageKind } from '../domain/stage.js';
import { isOver, stageOf } from '../domain/state.js';
import { kindOfStage } from './jobs.js';
import type { RunContext } from './run-context.js';

const isLeftOut = 'is left out';
/** Rows named one by one; the count names the rest. */
const maxNamedRows = 10;
/** Between two batches: many small jobs may not cost a written state each. */
const gatherMs = 50;
/** Results that are read at a time. */
const readAtOnce = 32;

interface KeyedShard {
  key: string;
  shard: number;
}

/** What the state learns from the result of a job. */
interface ReadResult {
  shard: number;
  rejected: RejectedRow[];
  truncated: number;
  leftOut: number;
  judgement?: Judgement;
}

type Context = Pick<RunContext, 'ports' | 'stop' | 'record' | 'results' | 'dispatch'>;

export class FinishedJobs {
  readonly #context: Context;
  /** Keys that are not taken in yet. */
  #told: string[] = [];
  #isTaking = false;

  constructor(context: Context) {
    this.#context = context;
  }

  /** For a job that is said to be finished; it is taken in soon. */
  tell(key: string): void {
    this.#told.push(key);
    if (!this.#isTaking) void this.#takeTold();
  }

  async #takeTold(): Promise<void> {
    const { ports, stop } = this.#context;
    this.#isTaking = true;
    while (this.#told.length > 0) {
      try {
        await this.take(this.#told.splice(0));
      } catch (error) {
        if (!stop.aborted)
          ports.logger.warn(
            { err: error },
            'finished jobs could not be taken in; the next comparison will',
          );
      }
      await delay(gatherMs, stop).catch(() => undefined);
    }
    this.#isTaking = false;
  }

  /** Takes in those of `keys` that have a result and that the state does not know. */
  async take(keys: readonly string[]): Promise<void> {
    for (const [stage, jobs] of this.#unknown(keys)) {
      const results: ReadResult[] = [];
      const { keepIf } = this.#context.record().state.plan;
      const judges = this.#kindOf(stage) === 'score' ? keepIf : undefined;
      for (let i = 0; i < jobs.length; i += readAtOnce) {
        const some = jobs.slice(i, i + readAtOnce);
        const read = await Promise.all(some.map((job) => this.#read(stage, job, judges)));
        results.push(...read.flatMap((result) => result ?? []));
      }
      if (results.length > 0) await this.#takeIn(stage, results);
    }
  }

  /** Jobs that the state waits for, by stage. */
  #unknown(keys: readonly string[]): Map<string, KeyedShard[]> {
    const { runId, state } = this.#context.record();
    const stages = new Map(
      stagesOf(state.plan)
        .filter(({ kind, name }) => kindOfStage(kind) && !isOver(stageOf(state, name)))
        .map(({ name, shards }) => [name, { shards, done: new Set(stageOf(state, name).done) }]),
    );
    const unknown = new Map<string, KeyedShard[]>();
    for (const key of new Set(keys)) {
      const job = parseJobKey(key);
      const stage = job?.runId === runId ? stages.get(job.stage) : undefined;
      if (!job || !stage || job.shard >= stage.shards || stage.done.has(job.shard)) continue;
      const jobs = unknown.get(job.stage) ?? [];
      unknown.set(job.stage, jobs);
      jobs.push({ key, shard: job.shard });
    }
    return unknown;
  }

  #kindOf(stage: string): StageKind | undefined {
    const { plan } = this.#context.record().state;
    return stagesOf(plan).find(({ name }) => name === stage)?.kind;
  }

  async #read(
    stage: string,
    { key, shard }: KeyedShard,
    keepIf: KeepIf | undefined,
  ): Promise<ReadResult | null> {
    const result = await this.#context.results.get(key);
    if (!result) return null;
    const encoded = result.result.case === 'encode' ? result.result.value : null;
    const scored = result.result.case === 'score' ? result.result.value.scores : [];
    return {
      shard,
      rejected: encoded?.rejected ?? [],
      truncated: encoded?.truncatedCaptions ?? 0,
      leftOut: keepIf ? leftOut(scored[0]?.values ?? [], keepIf).length : 0,
      ...(this.#kindOf(stage) === 'judge-score' && {
        judgement: judgementOf(scored[0]?.values ?? []),
      }),
    };
  }

  async #takeIn(stage: string, results: readonly ReadResult[]): Promise<void> {
    const { record, dispatch } = this.#context;
    // Named first: losing them may end the run, which then takes no more warnings.
    for (const row of results.flatMap(({ rejected }) => rejected)) {
      const named = record().state.warnings.filter((warning) => warning.includes(isLeftOut)).length;
      if (named < maxNamedRows)
        await dispatch({
          type: 'warning',
          message: `data: ${row.file} ${isLeftOut}: ${row.reason}`,
        });
    }
    await dispatch({
      type: 'jobs-done',
      stage,
      jobs: results.map(({ shard, rejected, truncated, leftOut: without, judgement }) => ({
        shard,
        leftOut: without,
        ...(judgement && { judgement }),
        rejected: rejected.map((row) => row.index),
        truncated,
      })),
    });
  }
}

/** Of a judged step's images; its mean is NaN where one has no number. */
function judgementOf(values: readonly number[]): Judgement {
  const n = values.length;
  return { mean: n > 0 ? mean(values) : Number.NaN, standardError: standardError(values), n };
}
