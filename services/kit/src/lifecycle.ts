import { ensureError, SpindleError } from './errors.js';

/** Longer than a checkpoint of a large model takes. */
const longestStepMs = 120_000;
/** How long a process that has shut down waits for its event loop to be empty. */
const lingerMs = 1_000;

/**
 * What a process must undo before it ends. States: running -> stopping -> stopped. `shutdown`
 * aborts the signal first, so that work under way stops taking more, then runs what was deferred in
 * reverse order; called again, it waits for the first call.
 */
export class Lifecycle {
  readonly #controller = new AbortController();
  readonly #steps: { name: string; fn: () => Promise<void> | void; withinMs: number }[] = [];
  #stopping: Promise<void> | undefined;
  #onSignal: ((signal: NodeJS.Signals) => void) | undefined;

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /**
   * `name` appears in the message when the step fails. A step that has not ended after `withinMs`
   * is left behind: what says goodbye to a server must not wait for one that is away.
   */
  defer(name: string, fn: () => Promise<void> | void, withinMs = longestStepMs): void {
    this.#steps.push({ name, fn, withinMs });
  }

  shutdown(reason: string): Promise<void> {
    this.#stopping ??= this.#stop(reason);
    return this.#stopping;
  }

  /**
   * The first SIGTERM or SIGINT shuts down and leaves the exit to the emptied event loop, or ends
   * the process soon after where something keeps that from being empty; a second one ends it at
   * once.
   */
  installSignalHandlers(): void {
    if (this.#onSignal) return;
    this.#onSignal = (signal) => {
      if (this.#stopping) process.exit(signal === 'SIGINT' ? 130 : 143);
      this.shutdown(signal)
        .catch((error: unknown) => {
          process.stderr.write(`shutdown after ${signal} failed: ${ensureError(error).message}\n`);
          process.exitCode = 1;
        })
        // A connection that is being made again would keep the process for ever.
        .finally(() => setTimeout(() => process.exit(), lingerMs).unref());
    };
    process.on('SIGTERM', this.#onSignal);
    process.on('SIGINT', this.#onSignal);
  }

  async #stop(reason: string): Promise<void> {
    this.#controller.abort(new SpindleError('CANCELLED', `shutting down: ${reason}`));
    const errors: Error[] = [];
    // Popped one by one: a step may defer another one, which then runs next.
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) {
      try {
        await within(step.withinMs, Promise.resolve(step.fn()));
      } catch (error) {
        errors.push(new Error(`${step.name}: ${ensureError(error).message}`, { cause: error }));
      }
    }
    if (errors.length > 0)
      throw new AggregateError(
        errors,
        `shutdown (${reason}): ${errors.map((error) => error.message).join('; ')}`,
      );
  }
}

/** Resolves with the work, or after `ms` without it; its later failure is of no interest then. */
export async function within(ms: number, work: Promise<unknown>): Promise<void> {
  if (ms === Infinity) {
    await work;
    return;
  }
  const timer = linkedAbort();
  try {
    await Promise.race([work, delay(ms, timer.signal).catch(() => undefined)]);
  } finally {
    timer.abort();
    work.catch(() => undefined);
  }
}

export interface LinkedAbort extends Disposable {
  readonly signal: AbortSignal;
  abort(reason?: unknown): void;
  /**
   * Lets go of the outer signals; call it when the work is over, or listeners pile up on long-lived
   * signals.
   */
  cleanup(): void;
}

/** Aborts when any of the signals does, with that signal's reason. */
export function linkedAbort(...signals: (AbortSignal | undefined)[]): LinkedAbort {
  const controller = new AbortController();
  const undo: (() => void)[] = [];
  const cleanup = (): void => {
    for (const fn of undo.splice(0)) fn();
  };
  for (const outer of signals) {
    if (!outer) continue;
    if (outer.aborted) {
      controller.abort(outer.reason);
      break;
    }
    const forward = (): void => controller.abort(outer.reason);
    outer.addEventListener('abort', forward, { once: true });
    undo.push(() => outer.removeEventListener('abort', forward));
  }
  return {
    signal: controller.signal,
    abort: (reason) => controller.abort(reason),
    cleanup,
    [Symbol.dispose]: cleanup,
  };
}

/** Resolves after `ms`; rejects with CANCELLED when the signal aborts first. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(cancelled(signal));
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    const onAbort = (): void => {
      clearTimeout(timer);
      if (signal) reject(cancelled(signal));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** The signal's reason as an error of ours. */
export function cancelled(signal: AbortSignal): SpindleError {
  const reason: unknown = signal.reason;
  if (reason instanceof SpindleError) return reason;
  const error = ensureError(reason);
  return error.code === 'INTERNAL'
    ? new SpindleError('CANCELLED', error.message, { cause: reason })
    : error;
}
