/**
 * Watches a training for signs that it goes wrong. An alarm is raised once, and again only after
 * its cause has gone away. The guard keeps the last steps only, so it begins anew after a resume or
 * a rollback.
 */
import { Objective } from '@spindle/proto';

export type AlarmKind =
  | 'loss_zero'
  | 'saturated'
  | 'winner_worse'
  | 'loss_spike'
  | 'norm_spike'
  | 'nothing_learnt';

export interface Alarm {
  kind: AlarmKind;
  step: number;
  message: string;
  /** Checkpoints of this step and later ones have what is wrong in them; null: none has. */
  badSince: number | null;
}

export interface WatchedStep {
  /** 1 after the first optimiser step. */
  step: number;
  loss: number;
  gradNorm: number;
  errorReal: number;
  opponentErrorReal: number;
  /** Fraction of the pairs that have no slope left. */
  saturated: number;
}

/** Steps after the warm-up in which the loss must have moved, and by how much. */
export const stillWindow = 50;
const stillLoss = 1e-4;

/** The number of steps over which the errors on real images are compared. */
export const gapWindow = 20;
/** A spike is more than so many times the median of the steps before: of `history` at least. */
const spike = { loss: 5, norm: 20, history: 10 };
const mostSaturated = 0.9;
const steadier =
  'a smaller train.learning_rate or train.max_grad_norm, or more train.warmup_steps, helps';

/**
 * Where a pair's logit is past this, the logistic loss has a slope of 2e-9 or of 1. The pair
 * teaches nothing, or as much as a pair can.
 */
export const saturatedLogit = 20;

export class Guard {
  readonly #raised = new Set<AlarmKind>();
  #steps: WatchedStep[] = [];
  /** Steps in a row, after the warm-up, whose loss was that of a model equal to its opponent. */
  #still = 0;

  /** In the first `warmupSteps` nothing need have been learnt. */
  constructor(
    readonly objective: Objective,
    readonly warmupSteps = 0,
  ) {}

  /** The alarms that this step raises. */
  observe(step: WatchedStep): Alarm[] {
    const before = this.#steps;
    this.#steps = [...before, step].slice(-gapWindow);
    const found = new Map<AlarmKind, Omit<Alarm, 'kind' | 'step'>>();
    // The loss is that of the weights before the step's update.
    const badSince = step.step - 1;
    const see = (kind: AlarmKind, message: string, since: number | null = badSince): void =>
      void found.set(kind, { message, badSince: since });
    if (step.loss === 0) {
      see(
        'loss_zero',
        'the loss is exactly 0: nothing is learnt any more (a smaller objective.beta or ' +
          'train.learning_rate helps)',
      );
    }
    if (
      step.saturated >= mostSaturated &&
      (this.objective === Objective.SPIN_LOGISTIC || this.objective === Objective.DPO)
    ) {
      const percent = Math.round(100 * step.saturated);
      see(
        'saturated',
        `the logits of ${percent} % of the pairs are saturated (beyond ±${saturatedLogit}): ` +
          'β is too large for these errors (a smaller objective.beta helps)',
      );
    }
    if (
      this.objective !== Objective.SFT &&
      staysAbove(
        this.#steps.map(({ errorReal, opponentErrorReal }) => errorReal - opponentErrorReal),
      )
    ) {
      see(
        'winner_worse',
        `the error on real images has been above the opponent's over the last ${gapWindow} ` +
          `steps (${this.#meanOf('errorReal')} against ${this.#meanOf('opponentErrorReal')}): ` +
          'the model is drifting from the data ' +
          '(a lower learning rate, a larger β or objective.safeguard helps)',
        step.step - gapWindow,
      );
    }
    const start = lossOfEquals(this.objective);
    const stands = start !== null && Math.abs(step.loss - start) < stillLoss;
    this.#still = stands && step.step > this.warmupSteps ? this.#still + 1 : 0;
    if (start !== null && this.#still >= stillWindow) {
      see(
        'nothing_learnt',
        `the loss has stayed at ${start.toFixed(4)}, where model and opponent are equal, for ` +
          `${stillWindow} steps (${step.loss.toFixed(6)}): almost nothing is learnt; a larger ` +
          'train.learning_rate helps, or a larger objective.beta where the errors do differ',
        null,
      );
    }
    const times = (key: 'loss' | 'gradNorm'): number =>
      ratio(
        step[key],
        before.map((earlier) => earlier[key]),
      );
    const losses = times('loss');
    if (losses > spike.loss) {
      see(
        'loss_spike',
        `the loss is ${losses.toFixed(1)} times the median of the ${before.length} steps ` +
          `before (${step.loss.toPrecision(4)}): ${steadier}`,
      );
    }
    const norms = times('gradNorm');
    if (norms > spike.norm) {
      see(
        'norm_spike',
        `the gradient norm is ${norms.toFixed(1)} times the median ` +
          `of the ${before.length} steps before (${step.gradNorm.toPrecision(4)}): ${steadier}`,
      );
    }
    const alarms: Alarm[] = [];
    for (const [kind, alarm] of found) {
      if (!this.#raised.has(kind)) alarms.push({ kind, step: step.step, ...alarm });
    }
    this.#raised.clear();
    for (const kind of found.keys()) this.#raised.add(kind);
    return alarms;
  }

  /** Over the steps that are kept. */
  #meanOf(key: 'errorReal' | 'opponentErrorReal'): string {
    const total = this.#steps.reduce((sum, step) => sum + step[key], 0);
    return (total / this.#steps.length).toPrecision(4);
  }
}

/** The loss at a logit of 0; null for an objective without opponent. */
function lossOfEquals(objective: Objective): number | null {
  switch (objective) {
    case Objective.SPIN_LOGISTIC:
    case Objective.DPO:
      return Math.LN2;
    case Objective.SPIN_HINGE:
      return 1;
    case Objective.SPIN_IPO:
      return 1 / 4;
    case Objective.SFT:
    case Objective.UNSPECIFIED:
      return null;
  }
}

/** `value` divided by the median of `before`; 0 where there are too few of them. */
function ratio(value: number, before: readonly number[]): number {
  if (before.length < spike.history) return 0;
  const sorted = [...before].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
  return median > 0 ? value / median : 0;
}

/**
 * Whether the mean of the window lies above zero by more than two standard errors. Noise around
 * zero does not count.
 */
function staysAbove(gaps: readonly number[]): boolean {
  if (gaps.length < gapWindow) return false;
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  const variance = gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / (gaps.length - 1);
  return mean > 2 * Math.sqrt(variance / gaps.length);
}
