/** The long calls of a run, which go on beside its events: at most one of a name at a time. */
import { ensureError, extractContext, inSpan, linkedAbort } from '@spindle/kit';
import { heal } from './heal.js';
import { stageName } from '../domain/stage.js';
import { workOf } from '../domain/work.js';
import { isLoss } from './loss.js';
import { background, type NewEvent, type RunContext } from './run-context.js';
import { roomWanted } from './texts.js';

interface Task {
  abort: AbortController;
  /** Never rejects. */
  done: Promise<void>;
}

export class TaskRunner {
  readonly #context: RunContext;
  readonly #tasks = new Map<string, Task>();

  constructor(context: RunContext) {
    this.#context = context;
  }

  /** One of the same name that is still stopping goes first. A failure becomes the run's event. */
  launch(name: string, work: (signal: AbortSignal) => Promise<void>): void {
    const abort = new AbortController();
    const previous = this.#tasks.get(name)?.done;
    const linked = linkedAbort(abort.signal, this.#context.stop);
    const run = async (): Promise<void> => {
      await previous;
      if (linked.signal.aborted) return;
      const { runId, trace } = this.#context.record();
      await inSpan(
        name,
        { 'spindle.run': runId },
        () => work(linked.signal),
        extractContext(trace),
      );
    };
    const done = run()
      .then(
        () => false,
        (thrown: unknown) => this.#failed(name, thrown, linked.signal),
      )
      .then((isHealed) => {
        linked.cleanup();
        if (this.#tasks.get(name)?.abort !== abort) return;
        this.#tasks.delete(name);
        // Nobody asks for it again where its stage was not held back for what was lost.
        if (isHealed && this.#isWanted(name)) this.launch(name, work);
      });
    this.#tasks.set(name, { abort, done });
  }

  abort(name: string): void {
    this.#tasks.get(name)?.abort.abort();
  }

  abortAll(): void {
    for (const { abort } of this.#tasks.values()) abort.abort();
  }

  /** Resolves when all that were launched have ended. */
  async settled(): Promise<void> {
    await Promise.all([...this.#tasks.values()].map((task) => task.done));
  }

  #isWanted(name: string): boolean {
    if (this.#context.stop.aborted) return false;
    const { training, evaluating, report } = workOf(this.#context.record().state);
    const models = [
      ...(training ? [stageName({ kind: 'train', model: training })] : []),
      ...evaluating.map((model) => stageName({ kind: 'evaluate', model })),
    ];
    return models.includes(name) || (report && name === stageName({ kind: 'report' }));
  }

  /** Whether what it has missed is made again. */
  async #failed(stage: string, thrown: unknown, signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return false;
    const error = ensureError(thrown);
    const run = this.#context.record().runId;
    this.#context.ports.logger.error({ err: error, run }, `${stage} failed`);
    try {
      if (isLoss(error) && (await heal(this.#context, { stage }))) return true;
    } catch (cause) {
      this.#context.ports.logger.warn({ err: cause, run }, 'lost data could not be looked for');
    }
    // A full disk is for a person to mend; nothing of the run is wrong.
    const event: NewEvent =
      error.code === 'RESOURCE_EXHAUSTED'
        ? { type: 'pause', reason: roomWanted(stage, error.message) }
        : { type: 'failed', stage, reason: `${stage}: ${error.message}` };
    await background(this.#context, this.#context.dispatch(event));
    return false;
  }
}
