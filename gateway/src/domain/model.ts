/**
 * The models of a run. What a model is, is asked of a Model; its name is its identity in states,
 * jobs, messages and folders. Names are for ever: runs that are going on have them.
 */

/**
 * `base` is what the run starts from; `sft` and `dpo` are trained for comparison; `spin` k comes
 * out of iteration k, and `ema` k is the moving average of its weights.
 */
export type Model = Single | Iterated;
interface Single {
  kind: 'base' | 'sft' | 'dpo';
}
interface Iterated {
  kind: 'spin' | 'ema';
  iteration: number;
}

/** "base", "sft", "dpo", "spin3", "ema2". */
export function modelName(model: Model): string {
  switch (model.kind) {
    case 'base':
    case 'sft':
    case 'dpo':
      return model.kind;
    case 'spin':
    case 'ema':
      return `${model.kind}${model.iteration}`;
  }
}

/** The inverse of modelName; throws RangeError for what names no model. */
export function parseModel(name: string): Model {
  if (name === 'base' || name === 'sft' || name === 'dpo') return { kind: name };
  const [, kind, iteration] = /^(spin|ema)([1-9]\d*)$/.exec(name) ?? [];
  if (kind === 'spin' || kind === 'ema') return { kind, iteration: Number(iteration) };
  throw new RangeError(
    `model: expected base, sft, dpo, spin<k> or ema<k> with k from 1, got "${name}"`,
  );
}

export const base: Model = { kind: 'base' };

/** The model that comes out of an iteration, from 1. */
export function spin(iteration: number): Model {
  return { kind: 'spin', iteration };
}

/** A model that is trained for comparison, and takes no part in self-play. */
export function isBaseline(model: Model): boolean {
  return model.kind === 'sft' || model.kind === 'dpo';
}

/** The iteration that a model comes out of; 0 for the base and the baselines. */
export function iterationOf(model: Model): number {
  switch (model.kind) {
    case 'base':
    case 'sft':
    case 'dpo':
      return 0;
    case 'spin':
    case 'ema':
      return model.iteration;
  }
}

/** Whether two are one and the same; `null` is none. */
export function sameModel(a: Model | null, b: Model | null): boolean {
  return a === b || (a !== null && b !== null && modelName(a) === modelName(b));
}
