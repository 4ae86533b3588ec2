import type { Scene } from './scene.js';
import type { World } from './world.js';

/** One fault that has come about. */
export interface Struck {
  /** The row of the table. */
  fault: string;
  what: string;
  /** The damaged file comes back from a backup where the run cannot do without. */
  isGivenBack?: boolean;
}

/** A kind of trouble that a round may have. */
export interface Attack {
  name: string;
  /** How often it is drawn, beside the others. */
  weight: number;
  /** What it needs of the machine; "" where that is there. */
  lacks(world: World): string;
  /** "begin" creates the runs of the round itself. */
  when: 'begin' | 'during';
  /** Empty where there was nothing to strike. */
  strike(scene: Scene): Promise<Struck[]>;
}

export const lacksNothing = (): string => '';

export const services = ['sampler', 'scorer', 'trainer', 'evaluator', 'gateway'] as const;
