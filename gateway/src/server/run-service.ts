/** RunService: the public API. */
import { create } from '@bufbuild/protobuf';
import type { RunService } from '@spindle/proto';
import {
  RunStatus,
  CreateRunResponseSchema,
  DeleteRunResponseSchema,
  GetRunResponseSchema,
  PauseRunResponseSchema,
  ResumeRunResponseSchema,
  CancelRunResponseSchema,
  WatchRunResponseSchema,
  type CreateRunRequest,
  type CreateRunResponse,
  type Run,
  type WatchRunRequest,
  type WatchRunResponse,
} from '@spindle/proto';
import {
  injectContext,
  linkedAbort,
  parseConfigJson,
  SpindleError,
  type CallContext,
  type Logger,
  type ServiceHandlers,
} from '@spindle/kit';
import { type ArtifactStore, type Bus } from '@spindle/mesh';
import type { Files } from '@spindle/data';
import { parseRunConfig } from '../config/load.js';
import type { RunConfig } from '../config/schema.js';
import { isFinal } from '../domain/state.js';
import type { Orchestrator } from '../orchestrator/orchestrator.js';
import type { SamplerPort, ScorerPort } from '../orchestrator/ports.js';
import type { RunRecord } from '../orchestrator/record.js';
import { buildRecord, checkRun, chooseRunId } from './create-run.js';
import { freeBytes, neededBytes, size, workOf } from './plan-text.js';
import { waitsFor } from './queue-place.js';
import { RunList } from './run-list.js';
import { EventFanOut, jsonOf } from './event-fan-out.js';
import { toRun } from './run-view.js';

export interface RunServiceOptions {
  orchestrator: Orchestrator;
  sampler: SamplerPort;
  scorer: ScorerPort;
  /** Where data sets lie. */
  files: Files;
  bus: Bus;
  store: ArtifactStore;
  root: string;
  logger: Logger;
}

/** A watch of a run that has ended closes after so long without another event. */
const idleMs = 1_000;

export class RunApi {
  readonly list: RunList;
  readonly events: EventFanOut;
  readonly #options: RunServiceOptions;

  constructor(options: RunServiceOptions) {
    this.#options = options;
    this.events = new EventFanOut(options);
    this.list = new RunList(options.orchestrator);
  }

  handlers(): ServiceHandlers<typeof RunService> {
    const { orchestrator } = this.#options;
    return {
      createRun: (request, context) => this.#create(request, context),
      getRun: async ({ runId }) =>
        create(GetRunResponseSchema, { run: this.view(orchestrator.get(runId).record) }),
      listRuns: async (request) => this.list.page(request),
      watchRun: (request, context) => this.#watch(request, context),
      pauseRun: async ({ runId }) =>
        create(PauseRunResponseSchema, { run: this.view(await orchestrator.pause(runId)) }),
      resumeRun: async ({ runId, configJson }) => {
        const config = configJson === '' ? null : configOf(configJson);
        const { record, changes } = await orchestrator.resume(runId, config);
        return create(ResumeRunResponseSchema, { run: this.view(record), changes });
      },
      cancelRun: async ({ runId }) =>
        create(CancelRunResponseSchema, { run: this.view(await orchestrator.cancel(runId)) }),
      deleteRun: async ({ runId }) => {
        await orchestrator.delete(runId);
        return create(DeleteRunResponseSchema, {});
      },
    };
  }

  view(record: RunRecord): Run {
    const { orchestrator } = this.#options;
    const now = Date.now();
    const run = toRun(record, orchestrator.directory(record.runId), now);
    if (run.status === RunStatus.QUEUED && run.reason === '') {
      const others = orchestrator.list().map((driver) => driver.record);
      run.reason = waitsFor(record, others, now);
    }
    return run;
  }

  async #create(request: CreateRunRequest, context: CallContext): Promise<CreateRunResponse> {
    const { orchestrator, store, root } = this.#options;
    const config = configOf(request.configJson);
    const runId = chooseRunId(request.runId, config.name, (id) => orchestrator.has(id));
    const checked = await checkRun(config, runId, this.#options, context.signal);
    await using _data = checked.data;
    // With an object store the folder has a cache and what is under way.
    const free = store.remote ? undefined : freeBytes(root);
    const needed = neededBytes(checked);
    const short =
      free !== undefined && free < needed
        ? `artifacts folder ${root}: expected about ${size(needed)} of free disk space, got ` +
          `${size(free)}.`
        : null;
    if (request.dryRun) {
      // Nothing is stored: the record lives as long as the answer.
      const plan = [...checked.text, ...(short === null ? [] : [`warning: ${short}`])];
      return create(CreateRunResponseSchema, { plan, work: workOf(checked) });
    }
    if (short !== null) throw new SpindleError('FAILED_PRECONDITION', short);
    const trace: Record<string, string> = {};
    injectContext(trace);
    const record = await orchestrator.create(await buildRecord(checked, store, trace));
    return create(CreateRunResponseSchema, { run: this.view(record), plan: checked.text });
  }

  /**
   * Events from the stream, each with the run as it is now; ends with the run, also when its last
   * event was lost.
   */
  async *#watch(request: WatchRunRequest, context: CallContext): AsyncGenerator<WatchRunResponse> {
    const { orchestrator } = this.#options;
    const { runId, fromSequence } = request;
    let { record } = orchestrator.get(runId);
    // Without the lease there is no driver: the run is then what it last was.
    const latest = (): RunRecord =>
      (record = orchestrator.ready ? orchestrator.get(runId).record : record);
    const current = (): Run => this.view(latest());
    const over = (): boolean => isFinal(record.state.status);
    yield create(WatchRunResponseSchema, { sequence: fromSequence, run: current() });
    const idle = new AbortController();
    const linked = linkedAbort(context.signal, idle.signal);
    let seenAt = Date.now();
    const timer = setInterval(() => {
      try {
        latest();
      } catch {
        // Deleted: there is nothing more to wait for, and the last look says so to the caller.
        idle.abort();
      }
      if (over() && Date.now() - seenAt > idleMs) idle.abort();
    }, idleMs / 4);
    try {
      const { signal } = linked;
      for await (const told of this.events.watch(runId, { fromSequence, signal })) {
        seenAt = Date.now();
        const { sequence, event } = told;
        yield create(WatchRunResponseSchema, {
          sequence,
          eventJson: jsonOf(told),
          run: current(),
        });
        const status = event.fact.case === 'runChanged' ? event.fact.value.status : '';
        if (over() && status === record.state.status) return;
      }
    } catch (error) {
      if (!idle.signal.aborted) throw error;
    } finally {
      clearInterval(timer);
      linked.cleanup();
    }
    if (!context.signal.aborted)
      yield create(WatchRunResponseSchema, { sequence: 0n, run: current() });
  }
}

function configOf(json: string): RunConfig {
  return parseRunConfig(parseConfigJson(json, 'config_json'), 'config');
}
