/** The long calls of a run, which go on beside its events: at most one of a name at a time. */
import { ensureError, extractContext, inSpan, linkedAbort } from '@spindle/kit';
import { heal } from './heal.js';
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
      .catch((thrown: unknown) => this.#failed(name, thrown, linked.signal))
      .finally(() => {
        linked.cleanup();
        if (this.#tasks.get(name)?.abort === abort) this.#tasks.delete(name);
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

  async #failed(stage: string, thrown: unknown, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const error = ensureError(thrown);
    const run = this.#context.record().runId;
    this.#context.ports.logger.error({ err: error, run }, `${stage} failed`);
    try {
      if (isLoss(error) && (await heal(this.#context, { stage }))) return;
    } catch (cause) {
      this.#context.ports.logger.warn({ err: cause, run }, 'lost data could not be looked for');
    }
    // A full disk is for a person to mend; nothing of the run is wrong.
    const event: NewEvent =
      error.code === 'RESOURCE_EXHAUSTED'
        ? { type: 'pause', reason: roomWanted(stage, error.message) }
        : { type: 'failed', stage, reason: `${stage}: ${error.message}` };
    await background(this.#context, this.#context.dispatch(event));
  }
}
