/**
 * The models of a run. What a model is, is asked of a Model; its name is its identity in states,
 * jobs, messages and folders. Names are for ever: runs that are going on have them.
 */

/**
 * `base` is what the run starts from; `sft` and `dpo` are trained for comparison; `spin` k comes
 * out of iteration k, and `ema` k is the moving average of its weights. A `part` is what `spin` k
 * was after so many steps: the opponent of those that follow.
 */
export type Model = Single | Iterated | Part;
interface Single {
  kind: 'base' | 'sft' | 'dpo';
}
interface Part {
  kind: 'part';
  iteration: number;
  steps: number;
}
interface Iterated {
  kind: 'spin' | 'ema';
  iteration: number;
}

/** "base", "sft", "dpo", "spin3", "ema2", "spin3at50". */
export function modelName(model: Model): string {
  switch (model.kind) {
    case 'base':
    case 'sft':
    case 'dpo':
      return model.kind;
    case 'spin':
    case 'ema':
      return `${model.kind}${model.iteration}`;
    case 'part':
      return `spin${model.iteration}at${model.steps}`;
  }
}

/** The inverse of modelName; throws RangeError for what names no model. */
export function parseModel(name: string): Model {
  if (name === 'base' || name === 'sft' || name === 'dpo') return { kind: name };
  const [, kind, iteration] = /^(spin|ema)([1-9]\d*)$/.exec(name) ?? [];
  if (kind === 'spin' || kind === 'ema') return { kind, iteration: Number(iteration) };
  const [, whole, steps] = /^spin([1-9]\d*)at([1-9]\d*)$/.exec(name) ?? [];
  if (whole !== undefined) return { kind: 'part', iteration: Number(whole), steps: Number(steps) };
  throw new RangeError(
    `model: expected base, sft, dpo, spin<k>, ema<k> or spin<k>at<steps> with numbers from 1, got "${name}"`,
  );
}

export const base: Model = { kind: 'base' };

/** The model that comes out of an iteration, from 1. */
export function spin(iteration: number): Model {
  return { kind: 'spin', iteration };
}

/** What `spin<k>` was after so many of its steps. */
export function part(iteration: number, steps: number): Model {
  return { kind: 'part', iteration, steps };
}

/** The model in whose training this one comes up; other models are their own. */
export function wholeOf(model: Model): Model {
  return model.kind === 'part' ? spin(model.iteration) : model;
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
    case 'part':
      return model.iteration;
  }
}

/** Whether two are one and the same; `null` is none. */
export function sameModel(a: Model | null, b: Model | null): boolean {
  return a === b || (a !== null && b !== null && modelName(a) === modelName(b));
}
