/**
 * How a row's image is framed in each of its views: pure draws, the same in every process and
 * order.
 */
import { philox } from '@spindle/kit/domain';

export interface Transform {
  filter: 'bilinear' | 'bicubic' | 'lanczos';
  randomCrop: boolean;
  flip: boolean;
  /** At least 1. */
  views: number;
  seed: bigint;
}

export interface View {
  flip: boolean;
  /** Where the square is cut, each in [0, 1); null: the centre. */
  at: { x: number; y: number } | null;
}

const filters = ['bilinear', 'bicubic', 'lanczos'] as const;
const mostViews = 64;
/** Keeps these draws apart from those of training, which have the same key. */
const stream = 16;

interface Settings {
  filter: string;
  randomCrop: boolean;
  flip: boolean;
  views: number;
  seed: bigint;
}

/** Throws Error with a sentence that names field, expected and got. */
export function resolveTransform(settings: Settings | undefined): Transform {
  const { filter = '', randomCrop = false, flip = false, views = 0, seed = 0n } = settings ?? {};
  const known = filters.find((name) => name === (filter || 'bilinear'));
  if (known === undefined)
    throw new Error(`transform.filter: expected ${filters.join(', ')}, got "${filter}"`);
  if (views > mostViews)
    throw new Error(`transform.views: expected at most ${mostViews}, got ${views}`);
  return { filter: known, randomCrop, flip, views: views || 1, seed };
}

/**
 * The same for both images of a pair: what is cut off and mirrored tells nothing about which one is
 * preferred.
 */
export function viewOf(transform: Transform, row: number, view: number): View {
  const [x, y, side] = philox(transform.seed, [row, view, 0, stream]);
  return {
    flip: transform.flip && side >= 2 ** 31,
    at: transform.randomCrop ? { x: x / 2 ** 32, y: y / 2 ** 32 } : null,
  };
}
